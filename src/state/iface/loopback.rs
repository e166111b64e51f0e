//! `type: loopback`: only `lo`, addresses and MTU. Made absent it is as NetworkManager leaves it by itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::{Context, Kind};
use crate::error::Invalid;
use crate::facts::{Facts, Link};
use crate::profile::Profile;
use crate::state::part::ip::{Addr, Ip};

/// Has no section of its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loopback {}

impl Kind for Loopback {
    const TYPE: &'static str = "loopback";
    const SECTIONS: &'static [&'static str] = &[];
    const NM_TYPE: &'static str = "loopback";
    const VIRTUAL: bool = false;
    const LINK_SETTING: &'static str = "loopback";
    const STAYS_UP: bool = true;

    fn from_facts(_link: &Link, _facts: &Facts) -> Self {
        Loopback {}
    }

    fn validate(&self, cx: &Context<'_>) -> Result<(), Invalid> {
        match cx.name {
            "lo" => Ok(()),
            _ => Err(Invalid::new("name", "the only loopback interface is lo")),
        }
    }

    fn complete_ip(ipv6: bool, ip: &mut Ip, current: Option<&Ip>) -> Result<(), Invalid> {
        let keeps = match ipv6 {
            false => Some("the loopback interface keeps IPv4"),
            true if current.is_none_or(Ip::is_enabled) => {
                Some("the loopback interface keeps IPv6 where the node has it")
            }
            true => None,
        };
        if let Some(why) = keeps.filter(|_| ip.enabled == Some(false)) {
            return Err(Invalid::new("enabled", why));
        }
        for (key, given) in [("dhcp", ip.dhcp), ("autoconf", ip.autoconf)] {
            if given == Some(true) {
                return Err(Invalid::new(key, "nobody answers on the loopback interface"));
            }
        }
        if let Some(list) = &mut ip.address
            && let Some(own) = Self::own_address(ipv6)
            && !list
                .iter()
                .any(|a| (a.ip, a.prefix_length) == (own.ip, own.prefix_length))
        {
            list.insert(0, own);
        }
        Ok(())
    }

    fn own_address(ipv6: bool) -> Option<Addr> {
        Some(match ipv6 {
            false => Addr::plain(IpAddr::from(Ipv4Addr::LOCALHOST), 8),
            true => Addr::plain(IpAddr::from(Ipv6Addr::LOCALHOST), 128),
        })
    }

    /// It has none.
    fn drops_mac(&self) -> Option<&'static str> {
        Some("")
    }

    fn to_profile(&self, profile: &mut Profile) {
        let Loopback {} = self;
        profile.ensure("loopback");
    }

    fn refuse_unsupported(&self, facts: &Facts) -> Result<(), Invalid> {
        facts.needs_nm("1.42", "type", "a profile for the loopback interface")
    }
}
