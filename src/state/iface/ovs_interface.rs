//! `type: ovs-interface`: an interface of Open vSwitch. Internal (a kernel link that carries IP), or with section `patch`
//! (a cable to another bridge) or `dpdk` (a network card that the kernel has let go of).

use serde::{Deserialize, Serialize};

use super::{AnyKind, Base, Context, Interface, Kind, State, ovs_bridge};
use crate::error::Invalid;
use crate::facts::{self, Facts, Link};
use crate::profile::{self, Profile};
use crate::scalar::{self, Id};
use crate::state::part::Parts;
use crate::state::part::ip::Ip;
use crate::state::part::ovs_ids::OvsIds;

/// An interface of Open vSwitch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OvsInterface {
    /// A cable to another bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<Patch>,
    /// A network card driven by DPDK.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dpdk: Option<Dpdk>,
}

/// Section `patch`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    /// Name of the other end, itself an ovs-interface with `patch`.
    pub peer: String,
}

/// Section `dpdk`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dpdk {
    /// Which card: `0000:18:00.2`.
    pub devargs: String,
    /// Number of queues for receiving; 0 is Open vSwitch's default.
    #[serde(
        default,
        rename = "rx-queue",
        alias = "n_rxq",
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub rx_queue: Option<u32>,
    /// Length of each queue for receiving, a power of two up to 4096; 0 is Open vSwitch's default.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub n_rxq_desc: Option<u32>,
    /// Length of each queue for sending, a power of two up to 4096; 0 is Open vSwitch's default.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub n_txq_desc: Option<u32>,
    /// Learn of a lost link by interrupt instead of by asking.
    #[serde(
        default,
        rename = "lsc-interrupt",
        alias = "dpdk-lsc-interrupt",
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub lsc_interrupt: Option<bool>,
}

impl Dpdk {
    fn of(row: &facts::OvsInterface) -> Self {
        let number = |key: &str| row.options.get(key).and_then(|v| v.parse().ok());
        Dpdk {
            devargs: row.options.get("dpdk-devargs").cloned().unwrap_or_default(),
            rx_queue: number("n_rxq"),
            n_rxq_desc: number("n_rxq_desc"),
            n_txq_desc: number("n_txq_desc"),
            lsc_interrupt: row.options.get("dpdk-lsc-interrupt").map(|v| v == "true"),
        }
    }

    /// Keys of NetworkManager's setting, 0 for nothing.
    fn numbers(&self) -> [(&'static str, Option<u32>); 3] {
        let Dpdk {
            devargs: _,
            rx_queue,
            n_rxq_desc,
            n_txq_desc,
            lsc_interrupt: _,
        } = self;
        [
            ("n-rxq", *rx_queue),
            ("n-rxq-desc", *n_rxq_desc),
            ("n-txq-desc", *n_txq_desc),
        ]
    }

    fn validate(&self) -> Result<(), Invalid> {
        for (key, value) in [("n_rxq_desc", self.n_rxq_desc), ("n_txq_desc", self.n_txq_desc)] {
            if let Some(v) = value.filter(|v| *v != 0 && (!v.is_power_of_two() || *v > 4096)) {
                let why = format!("{v} is neither 0 nor a power of two up to 4096");
                return Err(Invalid::new(key, why));
            }
        }
        Ok(())
    }
}

impl OvsInterface {
    fn of(row: &facts::OvsInterface) -> Self {
        let peer = || row.options.get("peer").cloned().unwrap_or_default();
        OvsInterface {
            patch: (row.kind == "patch").then(|| Patch { peer: peer() }),
            dpdk: (row.kind == "dpdk").then(|| Dpdk::of(row)),
        }
    }
}

/// Why an interface that is in the database does not work; None where it does, and for patches, which may wait for their peer.
pub fn fault(name: &str, facts: &Facts) -> Option<String> {
    let row = facts.ovs_interface(name).filter(|row| row.kind != "patch")?;
    match row.ofport {
        Some(port) if port > 0 => None,
        _ => Some(
            row.error
                .clone()
                .unwrap_or_else(|| "not made yet by ovs-vswitchd".to_owned()),
        ),
    }
}

/// One of NetworkManager's that the kernel does not see. An internal one ought to be seen: it is down.
fn shown(name: &str, row: &facts::OvsInterface, facts: &Facts) -> Option<Interface> {
    row.ids.nm_uuid()?;
    let link = Link {
        name: name.to_owned(),
        admin_up: true,
        running: true,
        ..Link::default()
    };
    let off = || Some(Ip::disabled());
    let mut base = Base::of(&Id::kernel(name), &link, facts);
    base.accept_all_mac_addresses = None;
    if row.kind == "internal" {
        base.state = Some(State::Down);
    }
    Some(Interface {
        base,
        ipv4: off(),
        ipv6: off(),
        parts: Parts {
            ovs_ids: Some(OvsIds::of(&row.ids)),
            ..Parts::default()
        },
        kind: AnyKind::OvsInterface(OvsInterface::of(row)),
    })
}

impl Kind for OvsInterface {
    const TYPE: &'static str = "ovs-interface";
    const SECTIONS: &'static [&'static str] = &["patch", "dpdk"];
    const NM_TYPE: &'static str = "ovs-interface";
    const VIRTUAL: bool = true;
    const COPIES_MAC: bool = true;
    const ID_SUFFIX: &'static str = "-if";
    const FIXED_SETTINGS: &'static [&'static str] = &["ovs-interface", "ovs-patch", "ovs-dpdk"];
    const NEEDS_CONTROLLER: bool = true;
    const LINK_KIND: &'static str = "openvswitch";

    fn from_facts(link: &Link, facts: &Facts) -> Self {
        facts
            .ovs_interface(&link.name)
            .map(OvsInterface::of)
            .unwrap_or_default()
    }

    fn beyond_links(facts: &Facts) -> Vec<Interface> {
        let rows = facts.ovs.iter().flat_map(|o| &o.interfaces);
        rows.filter(|(_, row)| matches!(row.kind.as_str(), "internal" | "patch" | "dpdk"))
            .filter(|(name, _)| facts.link(name).is_none())
            .filter_map(|(name, row)| shown(name, row, facts))
            .collect()
    }

    fn is_patch(&self) -> bool {
        self.patch.is_some()
    }

    fn makes_link(profile: &Profile) -> bool {
        profile.str("ovs-interface", "type") == Some("internal")
    }

    fn validate(&self, cx: &Context<'_>) -> Result<(), Invalid> {
        if self.patch.is_some() && self.dpdk.is_some() {
            return Err(Invalid::new("dpdk", "an interface with patch cannot have dpdk as well"));
        }
        if let Some(dpdk) = &self.dpdk {
            dpdk.validate().map_err(|e| e.under("dpdk"))?;
        }
        let Some(Patch { peer }) = &self.patch else {
            return Ok(());
        };
        if let Some(why) = scalar::bad_ovs_name(peer) {
            return Err(Invalid::new("patch.peer", why));
        }
        if peer == cx.name {
            return Err(Invalid::new("patch.peer", "a patch cannot be its own peer"));
        }
        if cx.wish.base.mtu.is_some() {
            return Err(Invalid::new("mtu", "a patch has no MTU"));
        }
        for (section, ip) in [("ipv4", &cx.wish.ipv4), ("ipv6", &cx.wish.ipv6)] {
            if ip.as_ref().is_some_and(Ip::is_enabled) {
                let why = "a patch cannot carry IP addresses";
                return Err(Invalid::new(format!("{section}.enabled"), why));
            }
        }
        Ok(())
    }

    fn to_profile(&self, profile: &mut Profile) {
        let OvsInterface { patch, dpdk } = self;
        if let Some(Patch { peer }) = patch {
            profile.put("ovs-interface", "type", "patch");
            profile.put("ovs-patch", "peer", peer.clone());
        } else if let Some(dpdk) = dpdk {
            profile.put("ovs-interface", "type", "dpdk");
            profile.put("ovs-dpdk", "devargs", dpdk.devargs.clone());
            for (key, value) in dpdk.numbers() {
                if let Some(value) = value {
                    profile.put_opt("ovs-dpdk", key, Some(value).filter(|v| *v > 0));
                }
            }
            if let Some(on) = dpdk.lsc_interrupt {
                profile.put("ovs-dpdk", "lsc-interrupt", i32::from(on));
            }
        } else if profile.str("ovs-interface", "type").is_none() {
            profile.put("ovs-interface", "type", "internal");
        }
    }

    fn nm_default(setting: &str, key: &str) -> Option<profile::Value> {
        ((setting, key) == ("ovs-dpdk", "lsc-interrupt")).then_some(profile::Value::I32(-1))
    }

    fn normalise(tree: &mut serde_json::Map<String, serde_json::Value>) {
        if let Some(serde_json::Value::Object(dpdk)) = tree.get_mut("dpdk") {
            // 0 asks for nothing to be there
            for value in dpdk.values_mut().filter(|v| v.as_u64() == Some(0)) {
                *value = serde_json::Value::Null;
            }
        }
    }

    fn refuse_unsupported(&self, facts: &Facts) -> Result<(), Invalid> {
        ovs_bridge::refuse_without_ovs(facts)?;
        let Some(dpdk) = &self.dpdk else { return Ok(()) };
        if dpdk.lsc_interrupt.is_some() {
            facts.needs_nm("1.54", "dpdk.lsc-interrupt", "this setting of DPDK")?;
        }
        if dpdk.n_rxq_desc.or(dpdk.n_txq_desc).is_some() {
            facts.needs_nm("1.42", "dpdk", "the length of queues of DPDK")?;
        }
        Ok(())
    }
}

/// The row that NetworkManager makes from this profile, of this type or of a port that is another kind of link.
pub fn row(profile: &Profile) -> facts::OvsInterface {
    let mut options = std::collections::BTreeMap::new();
    let mut option = |name: &str, value: Option<String>| {
        options.extend(value.map(|v| (name.to_owned(), v)));
    };
    option("peer", profile.str("ovs-patch", "peer").map(str::to_owned));
    option("dpdk-devargs", profile.str("ovs-dpdk", "devargs").map(str::to_owned));
    for (name, key) in [
        ("n_rxq", "n-rxq"),
        ("n_rxq_desc", "n-rxq-desc"),
        ("n_txq_desc", "n-txq-desc"),
    ] {
        option(name, profile.int("ovs-dpdk", key).map(|v| v.to_string()));
    }
    let lsc = profile.int("ovs-dpdk", "lsc-interrupt").filter(|v| *v >= 0);
    option("dpdk-lsc-interrupt", lsc.map(|v| (v == 1).to_string()));
    facts::OvsInterface {
        kind: profile.str("ovs-interface", "type").unwrap_or("system").to_owned(),
        options,
        ofport: Some(1),
        ids: OvsIds::row(profile),
        ..facts::OvsInterface::default()
    }
}
