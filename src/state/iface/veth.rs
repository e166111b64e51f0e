//! `type: veth`: one end of a pair. Section `veth`: the peer. May carry section `ethernet` as well, as it is one to most users.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{AnyKind, Context, Interface, Kind, State, ethernet};
use crate::error::Invalid;
use crate::facts::{Facts, Link};
use crate::profile::Profile;
use crate::scalar;

/// One end of a pair.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Veth {
    /// The pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub veth: Option<Section>,
    /// Link settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ethernet: Option<ethernet::Section>,
}

/// Section `veth`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// Name of the other end.
    pub peer: String,
}

impl Kind for Veth {
    const TYPE: &'static str = "veth";
    const SECTIONS: &'static [&'static str] = &["veth", "ethernet"];
    const NM_TYPE: &'static str = "veth";
    const VIRTUAL: bool = true;

    fn is_virtual(&self) -> bool {
        self.veth.is_some()
    }

    fn nm_type(&self) -> &'static str {
        match self.veth {
            Some(_) => Self::NM_TYPE,
            // NetworkManager refuses a veth profile without a peer but takes the link for an ethernet
            None => ethernet::Ethernet::NM_TYPE,
        }
    }

    fn from_facts(link: &Link, facts: &Facts) -> Self {
        // a peer in another namespace has an index that means nothing here
        let peer = link
            .parent
            .filter(|_| !link.parent_elsewhere)
            .and_then(|i| facts.link_by_index(i));
        Veth {
            veth: peer.map(|p| Section { peer: p.name.clone() }),
            ethernet: ethernet::Section::from_facts(link, facts),
        }
    }

    fn from_profile(profile: &Profile) -> Self {
        let peer = profile.str("veth", "peer");
        Veth {
            veth: peer.map(|peer| Section { peer: peer.to_owned() }),
            ethernet: None,
        }
    }

    fn validate(&self, cx: &Context<'_>) -> Result<(), Invalid> {
        match &self.veth {
            None if cx.new => Err(Invalid::new("veth", "a new veth needs veth.peer")),
            Some(Section { peer }) => match scalar::bad_interface_name(peer) {
                Some(why) => Err(Invalid::new("veth.peer", why)),
                None if peer == cx.name => Err(Invalid::new("veth.peer", "a veth cannot be its own peer")),
                None => Ok(()),
            },
            None => Ok(()),
        }
    }

    fn complete(&mut self, current: Option<&Self>) -> Result<(), Invalid> {
        current.map_or(Ok(()), |now| {
            ethernet::Section::complete(&mut self.ethernet, &now.ethernet)
        })
    }

    fn peer(&self) -> Option<&str> {
        self.veth.as_ref().map(|v| v.peer.as_str())
    }

    fn other_end(&self, name: &str) -> Option<Interface> {
        let mut other = Interface::bare(self.peer()?, Self::TYPE);
        other.base.state = Some(State::Up);
        other.kind = AnyKind::Veth(Veth {
            veth: Some(Section { peer: name.to_owned() }),
            ethernet: None,
        });
        Some(other)
    }

    fn rename(&mut self, f: &mut dyn FnMut(&mut String)) {
        self.veth.iter_mut().for_each(|v| f(&mut v.peer));
    }

    fn to_link(profile: &Profile, link: &mut Link, index: &dyn Fn(&str) -> Option<u32>) {
        link.parent = profile.str("veth", "peer").and_then(index);
    }

    fn to_profile(&self, profile: &mut Profile) {
        let Veth { veth, ethernet } = self;
        if let Some(Section { peer }) = veth
            && profile.str("connection", "type") == Some(Self::NM_TYPE)
        {
            profile.put("veth", "peer", peer.clone());
        }
        if let Some(section) = ethernet {
            section.to_profile(profile);
        }
    }

    fn normalise(tree: &mut Map<String, Value>) {
        ethernet::Section::normalise(tree);
    }

    fn must_recreate(&self, current: &Self) -> bool {
        matches!((&self.veth, &current.veth), (Some(a), Some(b)) if a != b)
    }
}
