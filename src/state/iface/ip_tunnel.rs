//! `type: ip-tunnel`: packets inside packets, from one address to another. Section `ip-tunnel`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::IpProtocol;
use netlink_packet_route::link::{GreIOFlags, InfoData, InfoGre, InfoGre6, InfoIpTunnel, InfoVti, Ip6TunnelFlags};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Context, Kind, differs};
use crate::error::Invalid;
use crate::facts::{Facts, Link};
use crate::profile::{self, Profile};
use crate::scalar;

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

/// Numbers that several kinds of links spell each in their own way.
#[derive(Debug, Default)]
struct Raw {
    link: u32,
    local: Option<IpAddr>,
    remote: Option<IpAddr>,
    ttl: Option<u8>,
    tos: Option<u8>,
    flow: Option<u32>,
    fwmark: Option<u32>,
    encap_limit: Option<u8>,
    pmtu_disc: Option<bool>,
    flags: Option<u32>,
    protocol: Option<IpProtocol>,
    keys: [Option<u32>; 2],
    keyed: [bool; 2],
}

impl Raw {
    fn of(data: &InfoData) -> Self {
        let mut raw = Raw::default();
        match data {
            InfoData::IpTunnel(infos) => infos.iter().for_each(|i| raw.tunnel(i)),
            InfoData::GreTun(infos) | InfoData::GreTap(infos) => infos.iter().for_each(|i| raw.gre(i)),
            InfoData::GreTun6(infos) | InfoData::GreTap6(infos) => infos.iter().for_each(|i| raw.gre6(i)),
            InfoData::Vti(infos) => infos.iter().for_each(|i| raw.vti(i)),
            _ => {}
        }
        raw
    }

    fn tunnel(&mut self, info: &InfoIpTunnel) {
        match info {
            InfoIpTunnel::Link(v) => self.link = *v,
            InfoIpTunnel::Local(ip) => self.local = Some(*ip),
            InfoIpTunnel::Remote(ip) => self.remote = Some(*ip),
            InfoIpTunnel::Ttl(v) => self.ttl = Some(*v),
            InfoIpTunnel::Tos(v) => self.tos = Some(*v),
            InfoIpTunnel::FlowInfo(v) => self.flow = Some(*v),
            InfoIpTunnel::FwMark(v) => self.fwmark = Some(*v),
            InfoIpTunnel::EncapLimit(v) => self.encap_limit = Some(*v),
            InfoIpTunnel::PMtuDisc(v) => self.pmtu_disc = Some(*v),
            InfoIpTunnel::Ipv6Flags(f) => self.flags = Some(f.bits()),
            InfoIpTunnel::Protocol(p) => self.protocol = Some(*p),
            _ => {}
        }
    }

    fn gre(&mut self, info: &InfoGre) {
        match info {
            InfoGre::Link(v) => self.link = *v,
            InfoGre::Local(ip) => self.local = Some((*ip).into()),
            InfoGre::Remote(ip) => self.remote = Some((*ip).into()),
            InfoGre::Ttl(v) => self.ttl = Some(*v),
            InfoGre::Tos(v) => self.tos = Some(*v),
            InfoGre::FwMask(v) => self.fwmark = Some(*v),
            InfoGre::PathMTUDiscovery(v) => self.pmtu_disc = Some(*v),
            InfoGre::IFlags(f) => self.keyed[0] = f.contains(GreIOFlags::Key),
            InfoGre::OFlags(f) => self.keyed[1] = f.contains(GreIOFlags::Key),
            InfoGre::IKey(v) => self.keys[0] = Some(*v),
            InfoGre::OKey(v) => self.keys[1] = Some(*v),
            _ => {}
        }
    }

    fn gre6(&mut self, info: &InfoGre6) {
        match info {
            InfoGre6::Link(v) => self.link = *v,
            InfoGre6::Local(ip) => self.local = Some((*ip).into()),
            InfoGre6::Remote(ip) => self.remote = Some((*ip).into()),
            InfoGre6::Ttl(v) => self.ttl = Some(*v),
            InfoGre6::FlowLabel(v) => self.flow = Some(*v),
            InfoGre6::FwMask(v) => self.fwmark = Some(*v),
            InfoGre6::EncapLimit(v) => self.encap_limit = Some(*v),
            InfoGre6::IFlags(f) => self.keyed[0] = f.contains(GreIOFlags::Key),
            InfoGre6::OFlags(f) => self.keyed[1] = f.contains(GreIOFlags::Key),
            InfoGre6::IKey(v) => self.keys[0] = Some(*v),
            InfoGre6::OKey(v) => self.keys[1] = Some(*v),
            _ => {}
        }
    }

    fn vti(&mut self, info: &InfoVti) {
        match info {
            InfoVti::Link(v) => self.link = *v,
            InfoVti::Local(ip) => self.local = Some(*ip),
            InfoVti::Remote(ip) => self.remote = Some(*ip),
            InfoVti::FwMark(v) => self.fwmark = Some(*v),
            // a VTI has no flags; key 0 is none
            InfoVti::IKey(v) => (self.keys[0], self.keyed[0]) = (Some(*v), *v != 0),
            InfoVti::OKey(v) => (self.keys[1], self.keyed[1]) = (Some(*v), *v != 0),
            _ => {}
        }
    }

    fn mode(&self, kind: Option<&str>) -> Option<Mode> {
        match (kind?, self.protocol) {
            ("ip6tnl", Some(IpProtocol::Ipip)) => Some(Mode::Ipip6),
            ("ip6tnl", Some(IpProtocol::Ipv6)) => Some(Mode::Ip6ip6),
            ("ip6tnl", _) => None,
            (kind, _) => Mode::ALL.into_iter().find(|m| m.link_kind() == kind),
        }
    }

    /// As the document has it: only what the mode has.
    fn section(self, kind: Option<&str>, base_iface: Option<String>) -> Section {
        let mode = self.mode(kind);
        let is = |f: fn(Mode) -> bool| mode.is_some_and(f);
        let six = is(Mode::over_ipv6);
        let some = |ip: Option<IpAddr>| ip.filter(|ip| !ip.is_unspecified());
        let class = self.flow.and_then(|f| u8::try_from((f >> 20) & 0xff).ok());
        let key = |i: usize| self.keys[i].filter(|_| self.keyed[i] && is(Mode::has_keys));
        let plain = !is(Mode::is_vti);
        Section {
            mode,
            base_iface,
            local: some(self.local),
            remote: some(self.remote),
            ttl: self.ttl.filter(|_| plain),
            tos: if six { class } else { self.tos }.filter(|_| plain),
            flow_label: self.flow.map(|f| f & FLOW_LABEL).filter(|_| six && plain),
            fwmark: self.fwmark.filter(|_| !plain),
            encap_limit: self.encap_limit.filter(|_| six && plain),
            pmtu_disc: self.pmtu_disc.filter(|_| !six && plain),
            ip6tun_flags: self.flags.filter(|_| is(Mode::has_flags)).map(names),
            input_key: key(0),
            output_key: key(1),
        }
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
            return Err(Invalid::new(
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

/// What the kernel would show of a tunnel that NetworkManager made from this profile.
fn data_of(mode: Mode, profile: &Profile, link: u32) -> InfoData {
    let number = |key: &str| profile.int("ip-tunnel", key).and_then(|v| u32::try_from(v).ok());
    let byte = |key: &str| number(key).and_then(|v| u8::try_from(v).ok()).unwrap_or(0);
    let ip = |key: &str| profile.str("ip-tunnel", key).and_then(|t| t.parse::<IpAddr>().ok());
    let key = |key: &str| profile.str("ip-tunnel", key).and_then(|t| t.parse::<u32>().ok());
    let v4 = |key: &str| match ip(key) {
        Some(IpAddr::V4(ip)) => ip,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    let v6 = |key: &str| match ip(key) {
        Some(IpAddr::V6(ip)) => ip,
        _ => Ipv6Addr::UNSPECIFIED,
    };
    let pmtu = profile.bool("ip-tunnel", "path-mtu-discovery").unwrap_or(true);
    let flow = (u32::from(byte("tos")) << 20) | (number("flow-label").unwrap_or(0) & FLOW_LABEL);
    let keyed = |k: Option<u32>| {
        if k.is_some() {
            GreIOFlags::Key
        } else {
            GreIOFlags::empty()
        }
    };
    let (input, output) = (key("input-key"), key("output-key"));
    match mode {
        Mode::Gre | Mode::Gretap => {
            let infos = vec![
                InfoGre::Link(link),
                InfoGre::Local(v4("local")),
                InfoGre::Remote(v4("remote")),
                InfoGre::Ttl(byte("ttl")),
                InfoGre::Tos(byte("tos")),
                InfoGre::PathMTUDiscovery(pmtu),
                InfoGre::IFlags(keyed(input)),
                InfoGre::OFlags(keyed(output)),
                InfoGre::IKey(input.unwrap_or(0)),
                InfoGre::OKey(output.unwrap_or(0)),
            ];
            match mode {
                Mode::Gre => InfoData::GreTun(infos),
                _ => InfoData::GreTap(infos),
            }
        }
        Mode::Ip6gre | Mode::Ip6gretap => {
            let infos = vec![
                InfoGre6::Link(link),
                InfoGre6::Local(v6("local")),
                InfoGre6::Remote(v6("remote")),
                InfoGre6::Ttl(byte("ttl")),
                InfoGre6::EncapLimit(byte("encapsulation-limit")),
                InfoGre6::FlowLabel(flow),
                InfoGre6::IFlags(keyed(input)),
                InfoGre6::OFlags(keyed(output)),
                InfoGre6::IKey(input.unwrap_or(0)),
                InfoGre6::OKey(output.unwrap_or(0)),
            ];
            match mode {
                Mode::Ip6gre => InfoData::GreTun6(infos),
                _ => InfoData::GreTap6(infos),
            }
        }
        Mode::Vti | Mode::Vti6 => InfoData::Vti(vec![
            InfoVti::Link(link),
            InfoVti::Local(ip("local").unwrap_or(Ipv4Addr::UNSPECIFIED.into())),
            InfoVti::Remote(ip("remote").unwrap_or(Ipv4Addr::UNSPECIFIED.into())),
            InfoVti::IKey(input.unwrap_or(0)),
            InfoVti::OKey(output.unwrap_or(0)),
            InfoVti::FwMark(number("fwmark").unwrap_or(0)),
        ]),
        Mode::Ipip | Mode::Sit => InfoData::IpTunnel(vec![
            InfoIpTunnel::Link(link),
            InfoIpTunnel::Local(v4("local").into()),
            InfoIpTunnel::Remote(v4("remote").into()),
            InfoIpTunnel::Ttl(byte("ttl")),
            InfoIpTunnel::Tos(byte("tos")),
            InfoIpTunnel::PMtuDisc(pmtu),
        ]),
        Mode::Ip6ip6 | Mode::Ipip6 => InfoData::IpTunnel(vec![
            InfoIpTunnel::Link(link),
            InfoIpTunnel::Local(v6("local").into()),
            InfoIpTunnel::Remote(v6("remote").into()),
            InfoIpTunnel::Ttl(byte("ttl")),
            InfoIpTunnel::EncapLimit(byte("encapsulation-limit")),
            InfoIpTunnel::FlowInfo(flow),
            // what the kernel finds out about the addresses comes on top
            InfoIpTunnel::Ipv6Flags(Ip6TunnelFlags::from_bits_retain(
                number("flags").unwrap_or(0) | Flag::CapXmit as u32 | Flag::CapRcv as u32,
            )),
            InfoIpTunnel::Protocol(match mode {
                Mode::Ipip6 => IpProtocol::Ipip,
                _ => IpProtocol::Ipv6,
            }),
        ]),
    }
}
