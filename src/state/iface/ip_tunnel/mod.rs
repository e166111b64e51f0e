//! `type: ip-tunnel`: packets inside packets, from one address to another. Section `ip-tunnel`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Context, Kind, differs};
use crate::error::{ErrorKind, Invalid};
use crate::facts::{Facts, Link};
use crate::profile::{self, Profile};
use crate::scalar;

mod kernel;

use kernel::{Raw, data_of};

/// Packets inside packets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct IpTunnel {
    /// Ends and encapsulation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_tunnel: Option<Section>,
}

/// Section `ip-tunnel`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Section {
    /// What is inside what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The link by which it goes; any where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_iface: Option<String>,
    /// Our end; any where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<IpAddr>,
    /// The other end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<IpAddr>,
    /// Of the outer packet; 0 takes the inner one's.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub ttl: Option<u8>,
    /// Type of service or traffic class of the outer packet.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub tos: Option<u8>,
    /// Over IPv6: 20 bits.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub flow_label: Option<u32>,
    /// vti and vti6: mark of the outer packets.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub fwmark: Option<u32>,
    /// Over IPv6: how often a packet may be wrapped.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub encap_limit: Option<u8>,
    /// Over IPv4: path MTU discovery, on by default.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub pmtu_disc: Option<bool>,
    /// ipip6 and ip6ip6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip6tun_flags: Option<Vec<Flag>>,
    /// GRE and VTI: key of incoming packets.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub input_key: Option<u32>,
    /// GRE and VTI: key of outgoing packets.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub output_key: Option<u32>,
}

/// `mode`; the numbers are NetworkManager's (`NMIPTunnelMode`). ISATAP, 4, is one that it does not make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// IPv4 in IPv4.
    Ipip = 1,
    /// Anything in GRE in IPv4.
    Gre = 2,
    /// IPv6 in IPv4.
    Sit = 3,
    /// IPsec by routes over IPv4.
    Vti = 5,
    /// IPv6 in IPv6.
    Ip6ip6 = 6,
    /// IPv4 in IPv6.
    Ipip6 = 7,
    /// Anything in GRE in IPv6.
    Ip6gre = 8,
    /// IPsec by routes over IPv6.
    Vti6 = 9,
    /// Ethernet in GRE in IPv4.
    Gretap = 10,
    /// Ethernet in GRE in IPv6.
    Ip6gretap = 11,
}

/// A flag of tunnels over IPv6: `IP6_TNL_F_*` of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flag {
    /// No encapsulation limit.
    IgnEncapLimit = 0x1,
    /// Traffic class of the inner packet.
    UseOrigTclass = 0x2,
    /// Flow label of the inner packet.
    UseOrigFlowlabel = 0x4,
    /// For mobile IPv6.
    #[serde(rename = "mip6-dev")]
    Mip6Dev = 0x8,
    /// DSCP of the outer packet.
    RcvDscpCopy = 0x10,
    /// Mark of the inner packet.
    UseOrigFwMark = 0x20,
    /// Both ends may be on this node; NetworkManager cannot set it.
    AllowLocalRemote = 0x40,
    /// Only read.
    CapXmit = 0x10000,
    /// Only read.
    CapRcv = 0x20000,
    /// Only read.
    CapPerPacket = 0x40000,
}

/// All flags, lowest first.
const FLAGS: [Flag; 10] = [
    Flag::IgnEncapLimit,
    Flag::UseOrigTclass,
    Flag::UseOrigFlowlabel,
    Flag::Mip6Dev,
    Flag::RcvDscpCopy,
    Flag::UseOrigFwMark,
    Flag::AllowLocalRemote,
    Flag::CapXmit,
    Flag::CapRcv,
    Flag::CapPerPacket,
];
/// Those that NetworkManager sets.
const SETTABLE: u32 = 0x3f;
/// Bits of a flow label; the traffic class is above it in the kernel's number.
const FLOW_LABEL: u32 = 0xf_ffff;

impl Mode {
    const ALL: [Mode; 10] = [
        Mode::Ipip,
        Mode::Gre,
        Mode::Sit,
        Mode::Vti,
        Mode::Ip6ip6,
        Mode::Ipip6,
        Mode::Ip6gre,
        Mode::Vti6,
        Mode::Gretap,
        Mode::Ip6gretap,
    ];

    fn of_profile(profile: &Profile) -> Option<Self> {
        let number = profile.int("ip-tunnel", "mode")?;
        Self::ALL.into_iter().find(|m| *m as i64 == number)
    }

    /// `IFLA_INFO_KIND`.
    fn link_kind(self) -> &'static str {
        match self {
            Mode::Ipip => "ipip",
            Mode::Gre => "gre",
            Mode::Sit => "sit",
            Mode::Vti => "vti",
            Mode::Ip6ip6 | Mode::Ipip6 => "ip6tnl",
            Mode::Ip6gre => "ip6gre",
            Mode::Vti6 => "vti6",
            Mode::Gretap => "gretap",
            Mode::Ip6gretap => "ip6gretap",
        }
    }

    fn over_ipv6(self) -> bool {
        matches!(
            self,
            Mode::Ip6ip6 | Mode::Ipip6 | Mode::Ip6gre | Mode::Vti6 | Mode::Ip6gretap
        )
    }

    fn is_vti(self) -> bool {
        matches!(self, Mode::Vti | Mode::Vti6)
    }

    fn has_keys(self) -> bool {
        self.is_vti() || matches!(self, Mode::Gre | Mode::Gretap | Mode::Ip6gre | Mode::Ip6gretap)
    }

    fn has_flags(self) -> bool {
        matches!(self, Mode::Ip6ip6 | Mode::Ipip6)
    }

    fn carries_ethernet(self) -> bool {
        matches!(self, Mode::Gretap | Mode::Ip6gretap)
    }
}

fn names(bits: u32) -> Vec<Flag> {
    FLAGS.into_iter().filter(|f| bits & *f as u32 != 0).collect()
}

impl Section {
    /// What the mode cannot have.
    fn fits(&self, mode: Mode) -> Result<(), Invalid> {
        for (key, ip) in [("local", self.local), ("remote", self.remote)] {
            if let Some(ip) = ip.filter(|ip| ip.is_ipv6() != mode.over_ipv6()) {
                let family = if mode.over_ipv6() { "IPv6" } else { "IPv4" };
                return Err(Invalid::new(
                    format!("ip-tunnel.{key}"),
                    format!("{ip} is not an {family} address, which mode {} needs", word(mode)),
                ));
            }
        }
        let six = mode.over_ipv6() && !mode.is_vti();
        let given = |b: bool, allowed: bool| b && !allowed;
        for (key, wrong, needs) in [
            (
                "flow-label",
                given(self.flow_label.is_some_and(|v| v != 0), six),
                "a tunnel over IPv6",
            ),
            (
                "encap-limit",
                given(self.encap_limit.is_some_and(|v| v != 0), six),
                "a tunnel over IPv6",
            ),
            (
                "ip6tun-flags",
                given(
                    self.ip6tun_flags.as_ref().is_some_and(|f| !f.is_empty()),
                    mode.has_flags(),
                ),
                "mode ipip6 or ip6ip6",
            ),
            (
                "pmtu-disc",
                given(self.pmtu_disc == Some(false), !mode.over_ipv6()),
                "a tunnel over IPv4",
            ),
            (
                "fwmark",
                given(self.fwmark.is_some_and(|v| v != 0), mode.is_vti()),
                "mode vti or vti6",
            ),
            (
                "input-key",
                given(self.input_key.is_some(), mode.has_keys()),
                "a mode of GRE or VTI",
            ),
            (
                "output-key",
                given(self.output_key.is_some(), mode.has_keys()),
                "a mode of GRE or VTI",
            ),
        ] {
            if wrong {
                let why = format!("it needs {needs}, not mode {}", word(mode));
                return Err(Invalid::new(format!("ip-tunnel.{key}"), why));
            }
        }
        Ok(())
    }
}

fn word(mode: Mode) -> String {
    super::to_value(&mode).as_str().unwrap_or_default().to_owned()
}

impl Kind for IpTunnel {
    const TYPE: &'static str = "ip-tunnel";
    const SECTIONS: &'static [&'static str] = &["ip-tunnel"];
    const NM_TYPE: &'static str = "ip-tunnel";
    const VIRTUAL: bool = true;
    const LINK_SETTING: &'static str = "ip-tunnel";

    fn is_ethernet(&self) -> bool {
        self.ip_tunnel
            .as_ref()
            .and_then(|s| s.mode)
            .is_none_or(Mode::carries_ethernet)
    }

    fn link_kind(profile: &Profile) -> &'static str {
        Mode::of_profile(profile).map_or("ipip", Mode::link_kind)
    }

    fn from_facts(link: &Link, facts: &Facts) -> Self {
        let raw = link.data.as_ref().map(Raw::of).unwrap_or_default();
        let below = [raw.link, link.parent.unwrap_or(0)].into_iter().find(|i| *i != 0);
        let base = below.and_then(|i| facts.link_by_index(i)).map(|l| l.name.clone());
        IpTunnel {
            ip_tunnel: Some(raw.section(link.kind.as_deref(), base)),
        }
    }

    fn to_link(profile: &Profile, link: &mut Link, index: &dyn Fn(&str) -> Option<u32>) {
        let Some(mode) = Mode::of_profile(profile) else { return };
        let parent = profile.str("ip-tunnel", "parent").and_then(index);
        link.parent = parent;
        link.kind = Some(mode.link_kind().to_owned());
        link.data = Some(data_of(mode, profile, parent.unwrap_or(0)));
    }

    fn validate(&self, cx: &Context<'_>) -> Result<(), Invalid> {
        let none = Section::default();
        let s = self.ip_tunnel.as_ref().unwrap_or(&none);
        for (key, missing) in [("mode", s.mode.is_none()), ("remote", s.remote.is_none())] {
            if cx.new && missing {
                return Err(Invalid::new(
                    format!("ip-tunnel.{key}"),
                    "a new tunnel needs mode and remote",
                ));
            }
        }
        if let Some(label) = s.flow_label.filter(|l| *l > FLOW_LABEL) {
            return Err(Invalid::new(
                "ip-tunnel.flow-label",
                format!("{label} is larger than 0xFFFFF"),
            ));
        }
        if s.pmtu_disc == Some(false) && s.ttl.is_some_and(|t| t != 0) {
            return Err(Invalid::new(
                "ip-tunnel.ttl",
                "a fixed TTL needs path MTU discovery (pmtu-disc)",
            ));
        }
        if s.ip6tun_flags.iter().flatten().any(|f| *f == Flag::AllowLocalRemote) {
            return Err(Invalid::of(
                ErrorKind::NotSupportedError,
                "ip-tunnel.ip6tun-flags",
                "NetworkManager cannot set allow-local-remote",
            ));
        }
        s.mode.map_or(Ok(()), |mode| s.fits(mode))
    }

    fn parents(&self) -> Vec<String> {
        self.ip_tunnel.iter().filter_map(|s| s.base_iface.clone()).collect()
    }

    fn rename(&mut self, f: &mut dyn FnMut(&mut String)) {
        self.ip_tunnel
            .iter_mut()
            .filter_map(|s| s.base_iface.as_mut())
            .for_each(f);
    }

    fn to_profile(&self, profile: &mut Profile) {
        let IpTunnel { ip_tunnel } = self;
        profile.ensure("ip-tunnel");
        let Some(section) = ip_tunnel else { return };
        let Section {
            mode,
            base_iface,
            local,
            remote,
            ttl,
            tos,
            flow_label,
            fwmark,
            encap_limit,
            pmtu_disc,
            ip6tun_flags,
            input_key,
            output_key,
        } = section;
        let flags = |list: &Vec<Flag>| list.iter().fold(0, |all, f| all | *f as u32) & SETTABLE;
        for (key, number) in [
            ("mode", mode.map(|m| m as u32)),
            ("ttl", ttl.map(u32::from)),
            ("tos", tos.map(u32::from)),
            ("flow-label", *flow_label),
            ("fwmark", *fwmark),
            ("encapsulation-limit", encap_limit.map(u32::from)),
            ("flags", ip6tun_flags.as_ref().map(flags)),
        ] {
            match number {
                // an older NetworkManager does not know each of these keys; nothing is the default of all
                Some(0) => profile.remove("ip-tunnel", key),
                Some(number) => profile.put("ip-tunnel", key, number),
                None => {}
            }
        }
        for (key, text) in [
            ("parent", base_iface.clone()),
            ("local", local.map(|ip| ip.to_string())),
            ("remote", remote.map(|ip| ip.to_string())),
            ("input-key", input_key.map(|k| k.to_string())),
            ("output-key", output_key.map(|k| k.to_string())),
        ] {
            if let Some(text) = text {
                profile.put("ip-tunnel", key, text);
            }
        }
        if let Some(on) = pmtu_disc {
            profile.put("ip-tunnel", "path-mtu-discovery", *on);
        }
    }

    fn nm_default(setting: &str, key: &str) -> Option<profile::Value> {
        ((setting, key) == ("ip-tunnel", "path-mtu-discovery")).then_some(profile::Value::Bool(true))
    }

    fn normalise(tree: &mut Map<String, Value>) {
        let Some(Value::Object(section)) = tree.get_mut("ip-tunnel") else {
            return;
        };
        // what a mode does not have is not shown: nothing is as good
        for key in ["flow-label", "fwmark", "encap-limit", "ttl", "tos"] {
            if section.get(key) == Some(&0.into()) {
                section.remove(key);
            }
        }
        if section.get("pmtu-disc") == Some(&true.into()) {
            section.remove("pmtu-disc");
        }
        if let Some(Value::Array(flags)) = section.get_mut("ip6tun-flags") {
            flags.retain(|f| !f.as_str().is_some_and(|f| f.starts_with("cap-")));
            flags.sort_by_key(|f| f.as_str().map(str::to_owned));
            flags.dedup();
        }
        if section
            .get("ip6tun-flags")
            .is_some_and(|f| f.as_array().is_some_and(Vec::is_empty))
        {
            section.remove("ip6tun-flags");
        }
    }

    /// NetworkManager hands all of it to the kernel when it makes the link.
    fn must_recreate(&self, current: &Self) -> bool {
        let (Some(wish), Some(now)) = (&self.ip_tunnel, &current.ip_tunnel) else {
            return false;
        };
        let number = |wish: Option<u32>, now: Option<u32>| wish.is_some_and(|w| w != now.unwrap_or(0));
        let bits = |f: &Option<Vec<Flag>>| {
            let all = |list: &Vec<Flag>| list.iter().fold(0, |all, f| all | *f as u32) & SETTABLE;
            f.as_ref().map(all)
        };
        differs(&wish.mode, &now.mode)
            || differs(&wish.base_iface, &now.base_iface)
            || differs(&wish.local, &now.local)
            || differs(&wish.remote, &now.remote)
            || differs(&wish.input_key, &now.input_key)
            || differs(&wish.output_key, &now.output_key)
            || wish.pmtu_disc.is_some_and(|on| on != now.pmtu_disc.unwrap_or(true))
            || number(wish.ttl.map(u32::from), now.ttl.map(u32::from))
            || number(wish.tos.map(u32::from), now.tos.map(u32::from))
            || number(wish.flow_label, now.flow_label)
            || number(wish.fwmark, now.fwmark)
            || number(wish.encap_limit.map(u32::from), now.encap_limit.map(u32::from))
            || number(bits(&wish.ip6tun_flags), bits(&now.ip6tun_flags))
    }
}
