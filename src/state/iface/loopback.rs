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

    fn complete_ip(ipv6: bool, ip: &mut Ip) -> Result<(), Invalid> {
        if ip.enabled == Some(false) && !ipv6 {
            return Err(Invalid::new("enabled", "the loopback interface keeps IPv4"));
        }
        for (key, given) in [("dhcp", ip.dhcp), ("autoconf", ip.autoconf)] {
            if given == Some(true) {
                return Err(Invalid::new(key, "nobody answers on the loopback interface"));
            }
        }
        let own = match ipv6 {
            false => (IpAddr::from(Ipv4Addr::LOCALHOST), 8),
            true => (IpAddr::from(Ipv6Addr::LOCALHOST), 128),
        };
        if let Some(list) = &mut ip.address
            && !list.iter().any(|a| (a.ip, a.prefix_length) == own)
        {
            list.insert(0, Addr::plain(own.0, own.1));
        }
        Ok(())
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
