//! Tunnels as the kernel tells of them: several kinds of links, each with attributes of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::IpProtocol;
use netlink_packet_route::link::{GreIOFlags, InfoData, InfoGre, InfoGre6, InfoIpTunnel, InfoVti, Ip6TunnelFlags};

use super::{FLOW_LABEL, Flag, Mode, Section, names};
use crate::profile::Profile;

/// Numbers that several kinds of links spell each in their own way.
#[derive(Debug, Default)]
pub(super) struct Raw {
    /// Index of the link by which it goes; 0 is any.
    pub(super) link: u32,
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
    pub(super) fn of(data: &InfoData) -> Self {
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
    pub(super) fn section(self, kind: Option<&str>, base_iface: Option<String>) -> Section {
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

/// What the kernel would show of a tunnel that NetworkManager made from this profile.
pub(super) fn data_of(mode: Mode, profile: &Profile, link: u32) -> InfoData {
    let asked = Asked { profile, link };
    match mode {
        Mode::Gre => InfoData::GreTun(asked.gre()),
        Mode::Gretap => InfoData::GreTap(asked.gre()),
        Mode::Ip6gre => InfoData::GreTun6(asked.gre6()),
        Mode::Ip6gretap => InfoData::GreTap6(asked.gre6()),
        Mode::Vti | Mode::Vti6 => InfoData::Vti(asked.vti()),
        Mode::Ipip | Mode::Sit => InfoData::IpTunnel(asked.over_ipv4()),
        Mode::Ip6ip6 => InfoData::IpTunnel(asked.over_ipv6(IpProtocol::Ipv6)),
        Mode::Ipip6 => InfoData::IpTunnel(asked.over_ipv6(IpProtocol::Ipip)),
    }
}

/// What a profile asks of the kernel.
struct Asked<'a> {
    profile: &'a Profile,
    link: u32,
}

impl Asked<'_> {
    fn number(&self, key: &str) -> u32 {
        let number = self.profile.int("ip-tunnel", key);
        number.and_then(|v| v.try_into().ok()).unwrap_or(0)
    }

    fn byte(&self, key: &str) -> u8 {
        self.number(key).try_into().unwrap_or(0)
    }

    fn ip(&self, key: &str) -> Option<IpAddr> {
        self.profile.str("ip-tunnel", key)?.parse().ok()
    }

    fn v4(&self, key: &str) -> Ipv4Addr {
        match self.ip(key) {
            Some(IpAddr::V4(ip)) => ip,
            _ => Ipv4Addr::UNSPECIFIED,
        }
    }

    fn v6(&self, key: &str) -> Ipv6Addr {
        match self.ip(key) {
            Some(IpAddr::V6(ip)) => ip,
            _ => Ipv6Addr::UNSPECIFIED,
        }
    }

    /// A key, and the flag that there is one.
    fn key(&self, key: &str) -> (u32, GreIOFlags) {
        let found = self.profile.str("ip-tunnel", key).and_then(|t| t.parse().ok());
        match found {
            Some(key) => (key, GreIOFlags::Key),
            None => (0, GreIOFlags::empty()),
        }
    }

    fn pmtu(&self) -> bool {
        self.profile.bool("ip-tunnel", "path-mtu-discovery").unwrap_or(true)
    }

    /// Traffic class and flow label as one number.
    fn flow(&self) -> u32 {
        (u32::from(self.byte("tos")) << 20) | (self.number("flow-label") & FLOW_LABEL)
    }

    fn gre(&self) -> Vec<InfoGre> {
        let ((input, iflags), (output, oflags)) = (self.key("input-key"), self.key("output-key"));
        vec![
            InfoGre::Link(self.link),
            InfoGre::Local(self.v4("local")),
            InfoGre::Remote(self.v4("remote")),
            InfoGre::Ttl(self.byte("ttl")),
            InfoGre::Tos(self.byte("tos")),
            InfoGre::PathMTUDiscovery(self.pmtu()),
            InfoGre::IFlags(iflags),
            InfoGre::OFlags(oflags),
            InfoGre::IKey(input),
            InfoGre::OKey(output),
        ]
    }

    fn gre6(&self) -> Vec<InfoGre6> {
        let ((input, iflags), (output, oflags)) = (self.key("input-key"), self.key("output-key"));
        vec![
            InfoGre6::Link(self.link),
            InfoGre6::Local(self.v6("local")),
            InfoGre6::Remote(self.v6("remote")),
            InfoGre6::Ttl(self.byte("ttl")),
            InfoGre6::EncapLimit(self.byte("encapsulation-limit")),
            InfoGre6::FlowLabel(self.flow()),
            InfoGre6::IFlags(iflags),
            InfoGre6::OFlags(oflags),
            InfoGre6::IKey(input),
            InfoGre6::OKey(output),
        ]
    }

    fn vti(&self) -> Vec<InfoVti> {
        let none = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        vec![
            InfoVti::Link(self.link),
            InfoVti::Local(self.ip("local").unwrap_or(none)),
            InfoVti::Remote(self.ip("remote").unwrap_or(none)),
            InfoVti::IKey(self.key("input-key").0),
            InfoVti::OKey(self.key("output-key").0),
            InfoVti::FwMark(self.number("fwmark")),
        ]
    }

    fn over_ipv4(&self) -> Vec<InfoIpTunnel> {
        vec![
            InfoIpTunnel::Link(self.link),
            InfoIpTunnel::Local(self.v4("local").into()),
            InfoIpTunnel::Remote(self.v4("remote").into()),
            InfoIpTunnel::Ttl(self.byte("ttl")),
            InfoIpTunnel::Tos(self.byte("tos")),
            InfoIpTunnel::PMtuDisc(self.pmtu()),
        ]
    }

    fn over_ipv6(&self, inside: IpProtocol) -> Vec<InfoIpTunnel> {
        // what the kernel finds out about the addresses comes on top
        let flags = self.number("flags") | Flag::CapXmit as u32 | Flag::CapRcv as u32;
        vec![
            InfoIpTunnel::Link(self.link),
            InfoIpTunnel::Local(self.v6("local").into()),
            InfoIpTunnel::Remote(self.v6("remote").into()),
            InfoIpTunnel::Ttl(self.byte("ttl")),
            InfoIpTunnel::EncapLimit(self.byte("encapsulation-limit")),
            InfoIpTunnel::FlowInfo(self.flow()),
            InfoIpTunnel::Ipv6Flags(Ip6TunnelFlags::from_bits_retain(flags)),
            InfoIpTunnel::Protocol(inside),
        ]
    }
}
