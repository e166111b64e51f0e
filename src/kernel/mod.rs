//! The kernel's side of the node: one netlink dump a kind, turned into facts. Nothing here writes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::{Stream, StreamExt, pin_mut};
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    AfSpecBridge, BridgeVlanInfoFlags, InfoBridge, InfoData, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
    LinkMessage, Prop, State,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};
use tokio::sync::watch;
use tracing::debug;

use crate::facts::{Address, Facts, Link, Route, Rule, VlanRange};
use crate::host::HostError;

mod monitor;
mod sysfs;

/// A netlink socket for dumps and another that listens.
#[derive(Debug)]
pub struct Kernel {
    handle: Handle,
    events: watch::Receiver<u64>,
}

fn failed(tried: &str) -> impl FnOnce(std::io::Error) -> HostError + '_ {
    move |e| HostError::Kernel {
        tried: tried.to_owned(),
        source: Box::new(e),
    }
}

/// Every message of a dump that could be read. One that cannot be parsed must not hide the rest of the node.
async fn collect<T>(what: &str, stream: impl Stream<Item = Result<T, rtnetlink::Error>>) -> Result<Vec<T>, HostError> {
    pin_mut!(stream);
    let mut all = vec![];
    while let Some(item) = stream.next().await {
        match item {
            Ok(item) => all.push(item),
            Err(rtnetlink::Error::NetlinkError(e)) => {
                return Err(HostError::Kernel {
                    tried: format!("reading {what} from the kernel"),
                    source: Box::new(rtnetlink::Error::NetlinkError(e)),
                });
            }
            Err(e) => debug!("a {what} message of the kernel was skipped: {e}"),
        }
    }
    Ok(all)
}

impl Kernel {
    /// Opens the sockets in the caller's network namespace.
    pub async fn connect() -> Result<Self, HostError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(failed("opening a netlink socket"))?;
        tokio::spawn(connection);
        Ok(Kernel {
            handle,
            events: monitor::start()?,
        })
    }

    /// Counts netlink events on links, addresses, routes and rules.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.events.clone()
    }

    /// Reads everything once.
    pub async fn dump(&self) -> Result<Facts, HostError> {
        let links = async { collect("links", self.handle.link().get().execute()).await };
        let vlans = async {
            let mut request = self
                .handle
                .link()
                .get()
                .set_filter_mask(AddressFamily::Bridge, vec![LinkExtentMask::BrvlanCompressed]);
            request.message_mut().header.interface_family = AddressFamily::Bridge;
            // a kernel without bridges answers EOPNOTSUPP
            Ok::<_, HostError>(collect("bridge VLANs", request.execute()).await.unwrap_or_default())
        };
        let addresses = async { collect("addresses", self.handle.address().get().execute()).await };
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        let routes4 = async { collect("IPv4 routes", self.handle.route().get(v4).execute()).await };
        let routes6 = async { collect("IPv6 routes", self.handle.route().get(v6).execute()).await };
        let rules4 = async {
            Ok::<_, HostError>(
                collect("IPv4 rules", self.handle.rule().get(IpVersion::V4).execute())
                    .await
                    .unwrap_or_default(),
            )
        };
        let rules6 = async {
            Ok::<_, HostError>(
                collect("IPv6 rules", self.handle.rule().get(IpVersion::V6).execute())
                    .await
                    .unwrap_or_default(),
            )
        };
        let (links, vlans, addresses, routes4, routes6, rules4, rules6) =
            futures::try_join!(links, vlans, addresses, routes4, routes6, rules4, rules6)?;
        let mut facts = Facts {
            links: links.into_iter().map(link).collect(),
            addresses: addresses.into_iter().filter_map(address).collect(),
            routes: routes4.into_iter().chain(routes6).flat_map(routes).collect(),
            rules: rules4.into_iter().chain(rules6).filter_map(rule).collect(),
            ..Facts::default()
        };
        add_vlans(&mut facts, vlans);
        facts.bridge_vlan_filtering = vlan_filtering(&facts);
        sysfs::fill(&mut facts);
        Ok(facts)
    }

    /// `sethostname(2)`.
    pub fn set_hostname(&self, name: &str) -> Result<(), HostError> {
        rustix::system::sethostname(name.as_bytes()).map_err(|e| failed("setting the host name")(e.into()))
    }

    /// Adds and removes extra names of a link.
    pub async fn alt_names(&self, link: &str, add: &[String], remove: &[String]) -> Result<(), HostError> {
        let found = self.handle.link().get().match_name(link.to_owned()).execute();
        pin_mut!(found);
        let wrong = |e: rtnetlink::Error| HostError::Kernel {
            tried: format!("changing the alt-names of {link}"),
            source: Box::new(e),
        };
        let index = match found.next().await {
            Some(Ok(message)) => message.header.index,
            Some(Err(e)) => return Err(wrong(e)),
            None => {
                return Err(HostError::Other(format!(
                    "changing the alt-names of {link}: there is no such link"
                )));
            }
        };
        let names = |list: &[String]| list.to_vec();
        if !remove.is_empty() {
            let names: Vec<String> = names(remove);
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            self.handle
                .link()
                .property_del(index)
                .alt_ifname(&names)
                .execute()
                .await
                .map_err(wrong)?;
        }
        if !add.is_empty() {
            let names: Vec<&str> = add.iter().map(String::as_str).collect();
            self.handle
                .link()
                .property_add(index)
                .alt_ifname(&names)
                .execute()
                .await
                .map_err(wrong)?;
        }
        Ok(())
    }

    /// Whether the kernel has a way to `to` (RTM_GETROUTE): false for no route, unreachable, blackhole and prohibit.
    pub async fn route_exists(&self, to: IpAddr, oif: Option<u32>) -> bool {
        let mut message = match to {
            IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(ip, 32)
                .build(),
            IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(ip, 128)
                .build(),
        };
        message.attributes.extend(oif.map(RouteAttribute::Oif));
        let mut request = self.handle.route().get(message.clone());
        // the builder asks for a main-table unicast route; a lookup asks for any
        request.message_mut().header.kind = RouteType::Unspec;
        request.message_mut().header.table = RouteHeader::RT_TABLE_UNSPEC;
        let stream = request.execute();
        pin_mut!(stream);
        matches!(stream.next().await, Some(Ok(found)) if matches!(found.header.kind, RouteType::Unicast | RouteType::Local))
    }
}

fn mac(bytes: &[u8]) -> Option<String> {
    let text = bytes.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(":");
    matches!(bytes.len(), 6 | 20).then_some(text)
}

fn link(message: LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut l = Link {
        index: message.header.index,
        arphrd: message.header.link_layer_type.into(),
        admin_up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::Running),
        promiscuous: flags.contains(LinkFlags::Promisc),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => l.name = name,
            LinkAttribute::PropList(list) => l.alt_names.extend(list.into_iter().filter_map(|p| match p {
                Prop::AltIfName(name) => Some(name),
                _ => None,
            })),
            LinkAttribute::Address(bytes) => l.mac = mac(&bytes),
            LinkAttribute::PermAddress(bytes) => l.permanent_mac = mac(&bytes),
            LinkAttribute::Mtu(v) => l.mtu = Some(v),
            LinkAttribute::MinMtu(v) => l.min_mtu = Some(v),
            LinkAttribute::MaxMtu(v) => l.max_mtu = Some(v),
            LinkAttribute::Controller(v) => l.controller = Some(v),
            LinkAttribute::Link(v) => l.parent = Some(v),
            LinkAttribute::LinkNetNsId(_) => l.parent_elsewhere = true,
            LinkAttribute::OperState(State::Up) => l.running = true,
            // links without carrier detection (dummy, tun) report unknown
            LinkAttribute::OperState(State::Unknown) => l.running |= l.admin_up,
            LinkAttribute::LinkInfo(infos) => infos.into_iter().for_each(|i| info(&mut l, i)),
            _ => {}
        }
    }
    l
}

fn info(l: &mut Link, info: LinkInfo) {
    match info {
        LinkInfo::Kind(kind) => l.kind = Some(kind.to_string()),
        LinkInfo::Data(data) => l.data = Some(data),
        LinkInfo::PortData(data) => l.port_data = Some(data),
        _ => {}
    }
}

fn add_vlans(facts: &mut Facts, messages: Vec<LinkMessage>) {
    for message in messages {
        let Some(link) = facts.links.iter_mut().find(|l| l.index == message.header.index) else {
            continue;
        };
        for attribute in message.attributes {
            if let LinkAttribute::AfSpecBridge(specs) = attribute {
                link.vlans = vlan_ranges(&specs);
            }
        }
    }
}

fn vlan_ranges(specs: &[AfSpecBridge]) -> Vec<VlanRange> {
    let mut ranges = vec![];
    let mut first = None;
    for spec in specs {
        let AfSpecBridge::VlanInfo(vlan) = spec else { continue };
        if vlan.flags.contains(BridgeVlanInfoFlags::RangeBegin) {
            first = Some(vlan.vid);
            continue;
        }
        ranges.push(VlanRange {
            first: first.take().unwrap_or(vlan.vid),
            last: vlan.vid,
            pvid: vlan.flags.contains(BridgeVlanInfoFlags::Pvid),
            untagged: vlan.flags.contains(BridgeVlanInfoFlags::Untagged),
        });
    }
    ranges
}

/// The kernel tells `IFLA_BR_VLAN_DEFAULT_PVID` of a bridge only where it was built with VLAN filtering (br_netlink.c);
/// `IFLA_BR_VLAN_FILTERING` it always tells.
fn vlan_filtering(facts: &Facts) -> Option<bool> {
    let mut bridges = facts.links.iter().filter_map(|l| match &l.data {
        Some(InfoData::Bridge(info)) => Some(info),
        _ => None,
    });
    bridges
        .next()
        .map(|info| info.iter().any(|i| matches!(i, InfoBridge::VlanDefaultPvid(_))))
        .or_else(sysfs::vlan_filtering)
}

fn address(message: AddressMessage) -> Option<Address> {
    // IFA_F_PERMANENT 0x80, IFA_F_DADFAILED 0x08
    let mut flags = u32::from(message.header.flags.bits());
    let (mut ip, mut local, mut protocol) = (None, None, 0);
    let (mut valid, mut preferred) = (None, None);
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Address(a) => ip = Some(a),
            AddressAttribute::Local(a) => local = Some(a),
            AddressAttribute::Flags(f) => flags |= f.bits(),
            AddressAttribute::Protocol(p) => protocol = p.into(),
            AddressAttribute::CacheInfo(c) => {
                // 0xffffffff is for ever
                valid = Some(c.ifa_valid).filter(|v| *v != u32::MAX);
                preferred = Some(c.ifa_preferred).filter(|v| *v != u32::MAX);
            }
            _ => {}
        }
    }
    Some(Address {
        link: message.header.index,
        ip: local.or(ip)?,
        prefix: message.header.prefix_len,
        dynamic: flags & 0x80 == 0,
        valid,
        preferred,
        protocol,
        duplicate: flags & 0x08 != 0,
    })
}

fn ip_of(address: RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(ip.into()),
        RouteAddress::Inet6(ip) => Some(ip.into()),
        _ => None,
    }
}

fn via(via: RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(ip) => Some(ip.into()),
        RouteVia::Inet6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// Table `local` holds the node's own addresses, not routes that a person thinks of.
const LOCAL: u32 = 255;

fn routes(message: RouteMessage) -> Vec<Route> {
    let header = message.header;
    let any: IpAddr = match header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return vec![],
    };
    let mut hops = vec![];
    let mut destination = any;
    let mut route = Route {
        destination: IpNet::from(any),
        gateway: None,
        link: None,
        table: header.table.into(),
        metric: None,
        protocol: header.protocol.into(),
        scope: header.scope.into(),
        kind: header.kind.into(),
        source: None,
        weight: None,
        metrics: BTreeMap::new(),
    };
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(a) => destination = ip_of(a).unwrap_or(any),
            RouteAttribute::Gateway(a) => route.gateway = ip_of(a),
            RouteAttribute::Via(v) => route.gateway = via(v),
            RouteAttribute::Oif(i) => route.link = Some(i),
            RouteAttribute::Table(t) => route.table = t,
            RouteAttribute::Priority(p) => route.metric = Some(p),
            RouteAttribute::PrefSource(a) => route.source = ip_of(a),
            RouteAttribute::Metrics(list) => route.metrics = list.iter().filter_map(metric).collect(),
            RouteAttribute::MultiPath(list) => hops = list,
            _ => {}
        }
    }
    let Ok(net) = IpNet::new(destination, header.destination_prefix_length) else {
        return vec![];
    };
    route.destination = net;
    if route.table == LOCAL {
        return vec![];
    }
    if hops.is_empty() {
        return vec![route];
    }
    let hop = |hop: netlink_packet_route::route::RouteNextHop| {
        let gateway = hop.attributes.into_iter().find_map(|a| match a {
            RouteAttribute::Gateway(a) => ip_of(a),
            RouteAttribute::Via(v) => via(v),
            _ => None,
        });
        // rtnh_hops is the weight less one
        Route {
            gateway,
            link: Some(hop.interface_index),
            weight: Some(u16::from(hop.hops) + 1),
            ..route.clone()
        }
    };
    hops.into_iter().map(hop).collect()
}

fn metric(m: &RouteMetric) -> Option<(&'static str, u32)> {
    Some(match m {
        RouteMetric::Lock(v) => ("lock", *v),
        RouteMetric::Mtu(v) => ("mtu", *v),
        RouteMetric::Cwnd(v) => ("cwnd", *v),
        RouteMetric::Advmss(v) => ("advmss", *v),
        RouteMetric::InitCwnd(v) => ("initcwnd", *v),
        RouteMetric::InitRwnd(v) => ("initrwnd", *v),
        RouteMetric::QuickAck(v) => ("quickack", *v),
        _ => return None,
    })
}

fn rule(message: RuleMessage) -> Option<Rule> {
    let header = message.header;
    let ipv6 = header.family == AddressFamily::Inet6;
    let mut r = Rule {
        ipv6,
        from: None,
        to: None,
        priority: 0,
        table: header.table.into(),
        fwmark: None,
        fwmask: None,
        iif: None,
        action: header.action.into(),
        suppress_prefix_length: None,
        protocol: 0,
    };
    for attribute in message.attributes {
        match attribute {
            RuleAttribute::Source(ip) => r.from = IpNet::new(ip, header.src_len).ok(),
            RuleAttribute::Destination(ip) => r.to = IpNet::new(ip, header.dst_len).ok(),
            RuleAttribute::Priority(p) => r.priority = p,
            RuleAttribute::Table(t) => r.table = t,
            RuleAttribute::FwMark(v) => r.fwmark = Some(v),
            RuleAttribute::FwMask(v) => r.fwmask = Some(v),
            RuleAttribute::Iifname(name) => r.iif = Some(name),
            RuleAttribute::SuppressPrefixLen(v) => r.suppress_prefix_length = Some(v).filter(|v| *v != u32::MAX),
            RuleAttribute::Protocol(p) => r.protocol = p.into(),
            _ => {}
        }
    }
    // the kernel's own three: local, main, default
    let own = matches!((r.priority, r.table), (0, LOCAL) | (32766, 254) | (32767, 253)) && r.protocol == 2;
    (!own).then_some(r)
}
