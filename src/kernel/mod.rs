//! The kernel's side of the node: one netlink dump a kind, turned into facts. Nothing here writes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use futures::{Stream, StreamExt, pin_mut};
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    AfSpecBridge, BridgeVlanInfoFlags, InfoBondPort, InfoBridge, InfoData, InfoPortData, LinkAttribute, LinkExtentMask,
    LinkFlags, LinkInfo, LinkMessage, Prop, State, VfInfo, VfVlan, VlanProtocol,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};
use rustix::io::Errno;
use tokio::sync::watch;
use tracing::debug;

use crate::error::HostError;
use crate::facts::{Address, Facts, Link, Route, Rule, Sriov, Vf, VlanRange};

pub(crate) mod bytes;
mod ethtool;
mod generic;
mod monitor;
mod mptcp;
mod sysfs;

/// A netlink socket for dumps and another that listens.
#[derive(Debug)]
pub struct Kernel {
    handle: Handle,
    /// Generic netlink; None where the kernel has none of it.
    drivers: Option<tokio::sync::Mutex<(generic::Generic, ethtool::Reader)>>,
    events: watch::Receiver<u64>,
}

/// `ENODEV`: no such link.
const ENODEV: i32 = 19;

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
        let generic = generic::Generic::open();
        if let Err(e) = &generic {
            debug!("no generic netlink: {e}");
        }
        Ok(Kernel {
            handle,
            drivers: generic
                .ok()
                .map(|g| tokio::sync::Mutex::new((g, ethtool::Reader::default()))),
            events: monitor::start()?,
        })
    }

    /// Counts netlink events on links, addresses, routes and rules.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.events.clone()
    }

    /// Reads everything once.
    pub async fn dump(&self) -> Result<Facts, HostError> {
        // statistics are nobody's business here and most of the bytes
        let extent = vec![LinkExtentMask::Vf, LinkExtentMask::SkipStats];
        let links = self.handle.link().get().set_filter_mask(AddressFamily::Unspec, extent);
        let links = async { collect("links", links.execute()).await };
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
        if let Some(drivers) = &self.drivers {
            let (socket, reader) = &mut *drivers.lock().await;
            reader.fill(socket, &mut facts).await;
            mptcp::fill(socket, &mut facts).await;
        }
        Ok(facts)
    }

    /// `sethostname(2)`.
    pub fn set_hostname(&self, name: &str) -> Result<(), HostError> {
        rustix::system::sethostname(name.as_bytes()).map_err(|e| failed("setting the host name")(e.into()))
    }

    /// Adds the names that a link lacks and removes those that it has. False where there is no such link.
    pub async fn alt_names(&self, name: &str, add: &[String], remove: &[String]) -> Result<bool, HostError> {
        let wrong = |e: rtnetlink::Error| HostError::Kernel {
            tried: format!("changing the alt-names of {name}"),
            source: Box::new(e),
        };
        let found = self.handle.link().get().match_name(name.to_owned()).execute();
        pin_mut!(found);
        let now = match found.next().await {
            Some(Ok(message)) => link(message),
            None => return Ok(false),
            Some(Err(rtnetlink::Error::NetlinkError(e))) if e.raw_code() == -ENODEV => return Ok(false),
            Some(Err(e)) => return Err(wrong(e)),
        };
        // udev gives names by the same file: one may be there already
        let has = |n: &&str| now.alt_names.iter().any(|a| a == n);
        let gone: Vec<&str> = remove.iter().map(String::as_str).filter(has).collect();
        let new: Vec<&str> = add.iter().map(String::as_str).filter(|n| !has(n)).collect();
        if !gone.is_empty() {
            let request = self.handle.link().property_del(now.index).alt_ifname(&gone);
            request.execute().await.map_err(wrong)?;
        }
        if !new.is_empty() {
            let request = self.handle.link().property_add(now.index).alt_ifname(&new);
            request.execute().await.map_err(wrong)?;
        }
        Ok(true)
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
    matches!(bytes.len(), 6 | 20).then(|| crate::scalar::mac_text(bytes))
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
            LinkAttribute::Carrier(v) => l.carrier = v != 0,
            LinkAttribute::OperState(State::Up) => l.running = true,
            // links without carrier detection (dummy, tun) report unknown
            LinkAttribute::OperState(State::Unknown) => l.running |= l.admin_up,
            LinkAttribute::VfInfoList(list) => {
                let vfs = list.iter().filter_map(|v| virtual_function(&v.0)).collect();
                l.sriov = Some(Sriov {
                    vfs,
                    ..Sriov::default()
                });
            }
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
        LinkInfo::PortData(data) => {
            // a bond gives all its ports one address and remembers their own
            if let InfoPortData::BondPort(items) = &data {
                let own = items.iter().find_map(|i| match i {
                    InfoBondPort::PermHwaddr(bytes) => mac(bytes),
                    _ => None,
                });
                l.permanent_mac = l.permanent_mac.take().or(own);
            }
            l.port_data = Some(data);
        }
        _ => {}
    }
}

/// One virtual function; None where the driver does not even tell which.
fn virtual_function(info: &[VfInfo]) -> Option<Vf> {
    let mut vf = Vf::default();
    let mut id = None;
    for item in info {
        match item {
            VfInfo::Mac(v) => {
                id = Some(v.vf_id);
                // MAX_ADDR_LEN bytes, zeros behind the address
                vf.mac = v.mac.get(..6).and_then(mac);
            }
            VfInfo::Vlan(v) => {
                vf.vlan_id = Some(v.vlan_id);
                vf.qos = Some(v.qos);
            }
            VfInfo::VlanList(list) => {
                vf.vlan_ad = list.iter().find_map(|v| match v {
                    VfVlan::Info(v) => Some(v.protocol == VlanProtocol::Ieee8021Ad),
                    _ => None,
                });
            }
            VfInfo::Rate(v) => {
                vf.min_tx_rate = Some(v.min_tx_rate);
                vf.max_tx_rate = Some(v.max_tx_rate);
            }
            VfInfo::SpoofCheck(v) => vf.spoof_check = Some(v.enabled),
            VfInfo::Trust(v) => vf.trust = Some(v.enabled),
            _ => {}
        }
    }
    Some(Vf { id: id?, ..vf })
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
        .or_else(answers_for_bridge_vlans)
}

/// Without a bridge to ask: a kernel built with VLAN filtering (br_vlan.c) answers RTM_GETVLAN, of Linux 5.6, even where there
/// is no bridge. The code of a bridge module that is not loaded yet cannot answer.
fn answers_for_bridge_vlans() -> Option<bool> {
    const GETVLAN: u16 = 114;
    const REQUEST_AND_DUMP: u16 = 0x301;
    // struct nlmsghdr and struct br_vlan_msg
    let mut request = [0; 24];
    request[..4].copy_from_slice(&24_u32.to_ne_bytes());
    request[4..6].copy_from_slice(&GETVLAN.to_ne_bytes());
    request[6..8].copy_from_slice(&REQUEST_AND_DUMP.to_ne_bytes());
    request[16] = u8::from(AddressFamily::Bridge);
    let socket = Socket::new(NETLINK_ROUTE).ok()?;
    socket.set_non_blocking(true).ok()?;
    socket.send_to(&request, &SocketAddr::new(0, 0), 0).ok()?;
    let (answer, _) = socket.recv_from_full().ok()?;
    match generic::take(&answer, 0, &mut vec![]) {
        Some(Some(e)) if e.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {
            Path::new("/sys/module/bridge").exists().then_some(false)
        }
        Some(Some(_)) => None,
        _ => Some(true),
    }
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
