//! `mptcp`: how multipath TCP uses the addresses of an interface.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Part;
use crate::error::{ErrorKind, Invalid};
use crate::facts::{Facts, Link};
use crate::profile::Profile;

/// `mptcp`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Mptcp {
    /// What is done with each address; an empty list takes them out of use. In any order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_flags: Option<Vec<Flag>>,
}

/// One of `address-flags`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flag {
    /// Tell the partner of it.
    Signal,
    /// Open subflows from it.
    Subflow,
    /// Only where nothing else works.
    Backup,
    /// To every address of the partner.
    Fullmesh,
}

impl Flag {
    /// Flag, the kernel's bit (`MPTCP_PM_ADDR_FLAG_*`), NetworkManager's (`NM_MPTCP_FLAGS_*`).
    const ALL: [(Flag, u32, u32); 4] = [
        (Flag::Signal, 1, 0x10),
        (Flag::Subflow, 2, 0x20),
        (Flag::Backup, 4, 0x40),
        (Flag::Fullmesh, 8, 0x80),
    ];

    /// By the kernel's bits.
    pub fn of_kernel(bits: u32) -> Vec<Flag> {
        Flag::ALL.iter().filter(|f| bits & f.1 != 0).map(|f| f.0).collect()
    }
}

/// `NM_MPTCP_FLAGS_DISABLED`: the addresses are not used.
const DISABLED: u32 = 0x1;
/// `NM_MPTCP_FLAGS_ALSO_WITHOUT_DEFAULT_ROUTE`: else NetworkManager leaves out interfaces that lead nowhere.
const ANY_INTERFACE: u32 = 0x8;

impl Part for Mptcp {
    const KEY: &'static str = "mptcp";

    fn from_facts(link: &Link, facts: &Facts) -> Option<Self> {
        let mine: Vec<u32> = facts
            .mptcp
            .iter()
            .filter(|e| e.link == link.index)
            .map(|e| e.flags)
            .collect();
        // before there is an address there is no endpoint, and the profile alone tells
        let stored = || {
            let bits = facts.own_profile(&link.name)?.int("connection", "mptcp-flags")?;
            Some(
                Flag::ALL
                    .iter()
                    .filter(|f| bits & i64::from(f.2) != 0)
                    .map(|f| f.0)
                    .collect(),
            )
        };
        let flags = match mine.is_empty() {
            true => stored().unwrap_or_default(),
            false => Flag::of_kernel(mine.iter().fold(0, |all, bits| all | bits)),
        };
        Some(Mptcp {
            address_flags: Some(flags),
        })
    }

    fn validate(&self) -> Result<(), Invalid> {
        let has = |flag| self.address_flags.iter().flatten().any(|f| *f == flag);
        match has(Flag::Signal) && has(Flag::Fullmesh) {
            true => Err(Invalid::new("address-flags", "signal and fullmesh exclude one another")),
            false => Ok(()),
        }
    }

    fn refuse_unsupported(&self, _link: Option<&Link>, facts: &Facts) -> Result<(), Invalid> {
        let used = self.address_flags.iter().flatten().next().is_some();
        match used && !facts.mptcp_enabled {
            true => Err(Invalid::of(
                ErrorKind::NotSupportedError,
                "address-flags",
                "multipath TCP is switched off on this node (sysctl net.mptcp.enabled)",
            )),
            false => Ok(()),
        }
    }

    fn to_profile(&self, profile: &mut Profile) {
        let Mptcp { address_flags } = self;
        let Some(flags) = address_flags else { return };
        let wanted: BTreeSet<&Flag> = flags.iter().collect();
        let bits: u32 = Flag::ALL.iter().filter(|f| wanted.contains(&f.0)).map(|f| f.2).sum();
        let value = if bits == 0 { DISABLED } else { bits | ANY_INTERFACE };
        profile.put("connection", "mptcp-flags", value);
    }

    fn normalise(tree: &mut Value) {
        if let Some(Value::Array(flags)) = tree.get_mut("address-flags") {
            flags.sort_by_key(|f| f.as_str().unwrap_or_default().to_owned());
            flags.dedup();
        }
    }
}
