//! `type: ovs-port`: NetworkManager's profile between a bridge of Open vSwitch and its interfaces. Users write it as an entry
//! of the bridge's port list: VLANs, and the options of a bond.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::bridge_vlan::{self, TrunkTag};
use super::{Companion, Interface, Kind, State, ovs_interface};
use crate::error::Invalid;
use crate::facts::{self, Facts, Link};
use crate::profile::{self, Dict, Profile};
use crate::scalar::{self, Space};
use crate::state::part::ovs_ids::OvsIds;

/// A port.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct OvsPort {
    /// What the bridge's list says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ovs_port: Option<Section>,
}

/// What a port is beside its name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Section {
    /// VLANs let through; left out keeps them, `{}` clears them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<Vlan>,
    /// Several interfaces as one port.
    #[serde(default, alias = "bond", skip_serializing_if = "Option::is_none")]
    pub link_aggregation: Option<Bond>,
}

/// Section `vlan` of a port.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Vlan {
    /// `access`, `trunk`, or what only Open vSwitch has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// VLAN id of untagged frames, 1–4094.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub tag: Option<u16>,
    /// On a trunk: untagged frames belong to `tag`, and leave untagged (Open vSwitch: `native-untagged`).
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub enable_native: Option<bool>,
    /// VLANs let through tagged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trunk_tags: Option<Vec<TrunkTag>>,
}

/// Mode of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// One VLAN, untagged.
    Access,
    /// Many VLANs, tagged.
    Trunk,
    /// A trunk whose untagged frames belong to `tag`, and leave tagged.
    NativeTagged,
    /// The same, and they leave untagged.
    NativeUntagged,
    /// Frames travel inside `tag`, whatever tag they have (802.1ad).
    #[serde(rename = "dot1q-tunnel")]
    Tunnel,
}

/// Section `link-aggregation`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Bond {
    /// How frames are spread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<BondMode>,
    /// Its interfaces; replaces the list.
    #[serde(default, alias = "ports", skip_serializing_if = "Option::is_none")]
    pub port: Option<Vec<BondPort>>,
    /// Milliseconds before an interface that lost its link counts as down.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub bond_downdelay: Option<u32>,
    /// Milliseconds before an interface with link is used.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub bond_updelay: Option<u32>,
    /// Free keys of the port's row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ovs_db: Option<OvsIds>,
}

/// An interface of a bond. Keys that we do not know are let pass, as they always were.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BondPort {
    /// Kernel name.
    pub name: String,
}

/// Mode of a bond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BondMode {
    /// One carries all.
    ActiveBackup,
    /// Spread by source MAC and VLAN; the other side needs to know nothing.
    BalanceSlb,
    /// Spread by addresses and ports; needs LACP on the other side.
    BalanceTcp,
    /// Active LACP, otherwise as Open vSwitch likes.
    Lacp,
}

impl BondMode {
    /// `bond-mode` and `lacp` of NetworkManager and Open vSwitch. Without LACP `balance-tcp` would never use a second link.
    fn words(self) -> (Option<&'static str>, Option<&'static str>) {
        match self {
            BondMode::ActiveBackup => (Some("active-backup"), None),
            BondMode::BalanceSlb => (Some("balance-slb"), None),
            BondMode::BalanceTcp => (Some("balance-tcp"), Some("active")),
            BondMode::Lacp => (None, Some("active")),
        }
    }

    fn of(row: &facts::OvsPort) -> Self {
        match (row.bond_mode.as_deref(), row.lacp.as_deref()) {
            (Some("balance-slb"), _) => BondMode::BalanceSlb,
            (Some("balance-tcp"), _) => BondMode::BalanceTcp,
            (None, Some("active")) => BondMode::Lacp,
            _ => BondMode::ActiveBackup,
        }
    }
}

impl Vlan {
    /// The mode, told from the rest where it is left out.
    fn effective_mode(&self) -> Mode {
        let trunk = self.trunk_tags.as_ref().is_some_and(|t| !t.is_empty());
        match self.mode {
            Some(Mode::Trunk) | None if trunk && self.enable_native == Some(true) => Mode::NativeUntagged,
            Some(mode) => mode,
            None if trunk => Mode::Trunk,
            None => Mode::Access,
        }
    }

    /// Rules of the section: those of any bridge, and more modes.
    pub fn validate(&self) -> Result<(), Invalid> {
        let native = matches!(self.mode, Some(Mode::NativeTagged | Mode::NativeUntagged));
        let Vlan {
            mode,
            tag,
            enable_native,
            trunk_tags,
        } = self.clone();
        if (native || mode == Some(Mode::Tunnel)) && tag.is_none() {
            return Err(Invalid::new("tag", "this mode needs the VLAN of untagged frames"));
        }
        let trunk = trunk_tags.as_ref().is_some_and(|t| !t.is_empty());
        let plain = match mode {
            None => None,
            Some(Mode::Trunk) => Some(bridge_vlan::Mode::Trunk),
            Some(Mode::NativeTagged | Mode::NativeUntagged) if trunk => Some(bridge_vlan::Mode::Trunk),
            Some(_) => Some(bridge_vlan::Mode::Access),
        };
        let enable_native = match native {
            true => trunk.then_some(true),
            false => enable_native,
        };
        bridge_vlan::Vlan {
            mode: plain,
            tag,
            enable_native,
            trunk_tags,
        }
        .validate()
    }

    /// What a row says; None for a port that lets all VLANs through.
    fn of(row: &facts::OvsPort) -> Option<Self> {
        let mode = match row.vlan_mode.as_deref() {
            Some("access") => Mode::Access,
            Some("native-tagged") => Mode::NativeTagged,
            Some("native-untagged") if row.trunks.is_empty() => Mode::NativeUntagged,
            Some("dot1q-tunnel") => Mode::Tunnel,
            None if row.tag.is_some() => Mode::Access,
            _ if row.trunks.is_empty() => return None,
            _ => Mode::Trunk,
        };
        let native = row.vlan_mode.as_deref() == Some("native-untagged") && mode == Mode::Trunk;
        let plain_trunk = mode == Mode::Trunk && !native;
        Some(Vlan {
            mode: Some(mode),
            tag: row.tag.filter(|_| !plain_trunk),
            enable_native: native.then_some(true),
            trunk_tags: Some(runs(row.trunks.iter().copied())).filter(|t| !t.is_empty()),
        })
    }

    fn to_profile(&self, profile: &mut Profile) {
        let empty = *self == Vlan::default();
        let mode = self.effective_mode();
        let word = match mode {
            _ if empty => None,
            Mode::Access => Some("access"),
            Mode::Trunk => Some("trunk"),
            Mode::NativeTagged => Some("native-tagged"),
            Mode::NativeUntagged => Some("native-untagged"),
            Mode::Tunnel => Some("dot1q-tunnel"),
        };
        profile.put_opt("ovs-port", "vlan-mode", word);
        profile.put_opt("ovs-port", "tag", self.tag.map(u32::from));
        let all = self.trunk_tags.iter().flatten().map(|t| t.bounds());
        let ids: BTreeSet<u16> = all.flat_map(|(low, high)| low..=high).collect();
        let range = |tag: TrunkTag| -> Dict {
            let (low, high) = tag.bounds();
            [("start", low), ("end", high)]
                .map(|(key, id)| (key.to_owned(), profile::Value::U64(id.into())))
                .into()
        };
        let trunks: Vec<Dict> = runs(ids).into_iter().map(range).collect();
        profile.put_opt("ovs-port", "trunks", Some(trunks).filter(|t| !t.is_empty()));
    }
}

/// Single ids in order as ranges.
fn runs(ids: impl IntoIterator<Item = u16>) -> Vec<TrunkTag> {
    let mut spans: Vec<(u16, u16)> = vec![];
    for id in ids {
        match spans.last_mut() {
            Some(last) if id == last.1 + 1 => last.1 = id,
            _ => spans.push((id, id)),
        }
    }
    let tag = |(low, high)| match low == high {
        true => TrunkTag::Id(low),
        false => TrunkTag::IdRange { min: low, max: high },
    };
    spans.into_iter().map(tag).collect()
}

impl Section {
    /// What the row of a port of this name says. One interface of the port's own name is no bond, unless it has a bond's mode.
    pub fn of(name: &str, row: &facts::OvsPort) -> Self {
        let delay = |v: u32| Some(v).filter(|v| *v > 0);
        let bond = || Bond {
            mode: Some(BondMode::of(row)),
            port: Some(
                row.interfaces
                    .iter()
                    .map(|name| BondPort { name: name.clone() })
                    .collect(),
            ),
            bond_downdelay: delay(row.downdelay),
            bond_updelay: delay(row.updelay),
            ovs_db: Some(OvsIds::of(&row.ids)).filter(|ids| !ids.is_empty()),
        };
        let plain = row.interfaces == [name] && row.bond_mode.is_none() && row.lacp.as_deref() != Some("active");
        Section {
            vlan: Vlan::of(row),
            link_aggregation: (!plain).then(bond),
        }
    }

    /// The interfaces behind a port of this name.
    pub fn members(&self, name: &str) -> Vec<String> {
        match &self.link_aggregation {
            Some(bond) => bond.port.iter().flatten().map(|p| p.name.clone()).collect(),
            None => vec![name.to_owned()],
        }
    }

    /// Interfaces behind a port of this name that do not work, and why.
    pub fn faults(&self, name: &str, facts: &Facts) -> Vec<(String, String)> {
        let why = |member: String| ovs_interface::fault(&member, facts).map(|why| (member, why));
        self.members(name).into_iter().filter_map(why).collect()
    }

    /// The profile of a port of this name.
    pub fn companion(&self, name: &str) -> Companion {
        let mut interface = Interface::bare(name, OvsPort::TYPE);
        interface.base.state = Some(State::Up);
        interface.parts.ovs_ids = self.link_aggregation.as_ref().and_then(|b| b.ovs_db.clone());
        interface.kind = super::AnyKind::OvsPort(OvsPort {
            ovs_port: Some(self.clone()),
        });
        Companion {
            ports: self.members(name),
            interface,
        }
    }

    /// Faults. Paths start at the port.
    pub fn validate(&self) -> Result<(), Invalid> {
        if let Some(vlan) = &self.vlan {
            vlan.validate().map_err(|e| e.under("vlan"))?;
        }
        let Some(bond) = &self.link_aggregation else {
            return Ok(());
        };
        let names: Vec<&String> = bond.port.iter().flatten().map(|p| &p.name).collect();
        if names.is_empty() {
            return Err(Invalid::new("link-aggregation.port", "a bond needs its interfaces"));
        }
        for (i, name) in names.iter().enumerate() {
            let at = || format!("link-aggregation.port[{i}]");
            if let Some(why) = scalar::bad_interface_name(name) {
                return Err(Invalid::new(format!("{}.name", at()), why));
            }
            if names[..i].contains(name) {
                return Err(Invalid::new(at(), format!("port '{name}' is listed twice")));
            }
        }
        Ok(())
    }
}

/// Brings one port to the form in which it is compared.
pub fn normalise_port(port: &mut Map<String, Value>) {
    if let Some(Value::Object(vlan)) = port.get_mut("vlan") {
        // two ways to write one thing
        if vlan.get("mode").and_then(Value::as_str) == Some("native-untagged") {
            vlan.insert("mode".into(), "trunk".into());
            vlan.insert("enable-native".into(), true.into());
        }
        bridge_vlan::normalise(vlan);
    }
    if let Some(Value::Object(bond)) = port.get_mut("link-aggregation") {
        if let Some(Value::Array(members)) = bond.get_mut("port") {
            members.sort_by_key(|m| m.get("name").and_then(Value::as_str).unwrap_or_default().to_owned());
        }
        for key in ["bond-updelay", "bond-downdelay"] {
            if bond.get(key) == Some(&Value::from(0)) {
                bond.insert(key.into(), Value::Null);
            }
        }
    }
}

impl Kind for OvsPort {
    const TYPE: &'static str = "ovs-port";
    const SECTIONS: &'static [&'static str] = &["ovs-port"];
    const NM_TYPE: &'static str = "ovs-port";
    const VIRTUAL: bool = true;
    const SPACE: Space = Space::OvsPort;
    const LINK_SETTING: &'static str = "";
    const ID_SUFFIX: &'static str = "-port";
    const FIXED_SETTINGS: &'static [&'static str] = &["ovs-port"];
    const INTERNAL: bool = true;
    const CONTROLLER: bool = true;
    const PORT_TYPE: &'static str = "ovs-port";
    const PORT_SETTING: &'static str = "ovs-interface";

    fn from_facts(_link: &Link, _facts: &Facts) -> Self {
        OvsPort::default()
    }

    fn port_faults(&self, name: &str, facts: &Facts) -> Vec<(String, String)> {
        self.ovs_port.iter().flat_map(|s| s.faults(name, facts)).collect()
    }

    fn settle(merged: &mut Map<String, Value>, desired: &Map<String, Value>, _current: &Map<String, Value>) {
        let wish = desired.get("ovs-port").and_then(|p| p.get("vlan"));
        // modes do not mix: a written vlan replaces the whole
        if let (Some(vlan), Some(Value::Object(port))) = (wish, merged.get_mut("ovs-port")) {
            port.insert("vlan".into(), vlan.clone());
        }
    }

    fn to_profile(&self, profile: &mut Profile) {
        let OvsPort { ovs_port } = self;
        profile.ensure("ovs-port");
        let Some(Section { vlan, link_aggregation }) = ovs_port else {
            return;
        };
        if let Some(vlan) = vlan {
            vlan.to_profile(profile);
        }
        let Some(Bond {
            mode,
            port: _,   // they have profiles of their own
            ovs_db: _, // a part of this profile's interface
            bond_downdelay,
            bond_updelay,
        }) = link_aggregation
        else {
            return;
        };
        if let Some(mode) = mode {
            let (bond_mode, lacp) = mode.words();
            profile.put_opt("ovs-port", "bond-mode", bond_mode);
            profile.put_opt("ovs-port", "lacp", lacp);
        }
        for (key, delay) in [("bond-downdelay", bond_downdelay), ("bond-updelay", bond_updelay)] {
            if let Some(ms) = delay {
                profile.put_opt("ovs-port", key, Some(*ms).filter(|v| *v > 0));
            }
        }
    }

    fn normalise(tree: &mut Map<String, Value>) {
        let Some(Value::Object(port)) = tree.get_mut("ovs-port") else {
            return;
        };
        normalise_port(port);
        // a missing member is mended on the member
        if let Some(Value::Object(bond)) = port.get_mut("link-aggregation") {
            bond.remove("port");
        }
    }
}

/// The row that NetworkManager makes from this profile.
pub fn row(profile: &Profile) -> facts::OvsPort {
    let word = |key: &str| profile.str("ovs-port", key).map(str::to_owned);
    let number = |key: &str| profile.int("ovs-port", key).and_then(|v| v.try_into().ok());
    let id = |d: &Dict, key: &str| match d.get(key) {
        Some(profile::Value::U64(v)) => u16::try_from(*v).unwrap_or(0),
        _ => 0,
    };
    let ranges = profile.dicts("ovs-port", "trunks").iter();
    facts::OvsPort {
        vlan_mode: word("vlan-mode"),
        tag: number("tag").and_then(|v: u32| v.try_into().ok()),
        trunks: ranges.flat_map(|d| id(d, "start")..=id(d, "end")).collect(),
        bond_mode: word("bond-mode"),
        lacp: word("lacp"),
        updelay: number("bond-updelay").unwrap_or(0),
        downdelay: number("bond-downdelay").unwrap_or(0),
        ids: OvsIds::row(profile),
        ..facts::OvsPort::default()
    }
}
