//! `routes`: what is asked for and what runs; how a route is kept in the profile of its next hop's interface.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, Invalid};
use crate::facts::{self, Facts};
use crate::profile::{Dict, Value};
use crate::scalar::{self, Id};

use super::iface::{Base, State};

/// Table `main` (`RT_TABLE_MAIN`).
pub const MAIN: u32 = 254;

/// Section `routes`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routes {
    /// Everything that the kernel uses; only read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Vec<Route>>,
    /// What is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Vec<Route>>,
}

/// One route. In an entry with `state: absent` the keys given are a filter.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Route {
    /// `absent` removes every route that matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// CIDR.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// Interface that it goes out of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop_interface: Option<String>,
    /// Gateway; `0.0.0.0` and `::` are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop_address: Option<String>,
    /// Preferred source address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// -1 is the default.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub metric: Option<i64>,
    /// 0 is main.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub table_id: Option<u32>,
    /// Name of a VRF instead of its table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vrf_name: Option<String>,
    /// 1–256, IPv4 multipath.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub weight: Option<u16>,
    /// `blackhole`, `unreachable`, `prohibit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route_type: Option<RouteType>,
    /// Congestion window, packets.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub cwnd: Option<u32>,
    /// Bytes.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub mtu: Option<u32>,
    /// Path MTU discovery may not lower `mtu`.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub lock_mtu: Option<bool>,
    /// Bytes.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub advmss: Option<u32>,
    /// Packets.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub initcwnd: Option<u32>,
    /// Packets.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub initrwnd: Option<u32>,
    /// Acknowledge at once.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub quickack: Option<bool>,
}

/// A route that swallows packets (`RTN_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteType {
    /// Silently.
    Blackhole,
    /// ICMP unreachable.
    Unreachable,
    /// ICMP prohibited.
    Prohibit,
}

impl RouteType {
    /// As the document has it.
    pub fn word(self) -> &'static str {
        match self {
            RouteType::Blackhole => "blackhole",
            RouteType::Unreachable => "unreachable",
            RouteType::Prohibit => "prohibit",
        }
    }
}

/// A network; host bits are masked and a bare address is one host.
pub fn net(text: &str) -> Option<IpNet> {
    match text.parse::<IpNet>() {
        Ok(net) => Some(net.trunc()),
        Err(_) => text.parse::<IpAddr>().ok().map(IpNet::from),
    }
}

/// Bits of `RTAX_LOCK`: `1 << RTAX_MTU`, `1 << RTAX_CWND` (rtnetlink.h).
const LOCK_MTU: u32 = 1 << 2;

/// The interface that keeps routes without a next hop.
pub const LOOPBACK: &str = "lo";

impl Route {
    /// Wanted gone.
    pub fn is_absent(&self) -> bool {
        self.state == Some(State::Absent)
    }

    /// Its next hop is an interface that nobody may touch.
    pub fn is_ignored(&self) -> bool {
        self.state == Some(State::Ignore)
    }

    /// Destination is IPv6; by the gateway where there is no destination.
    pub fn is_ipv6(&self) -> bool {
        match (&self.destination, self.gateway()) {
            (Some(d), _) => d.contains(':'),
            (None, gateway) => gateway.is_some_and(|g| g.is_ipv6()),
        }
    }

    /// The gateway, with the spellings of "none" taken out.
    pub fn gateway(&self) -> Option<IpAddr> {
        let ip: IpAddr = self.next_hop_address.as_deref()?.parse().ok()?;
        (!ip.is_unspecified()).then_some(ip)
    }

    /// Table with 0 and none spelled out.
    pub fn table(&self) -> u32 {
        self.table_id.filter(|t| *t != 0).unwrap_or(MAIN)
    }

    /// The metric asked for; -1 asks for none.
    pub fn metric_asked(&self) -> Option<u32> {
        self.metric.and_then(|m| u32::try_from(m).ok())
    }

    /// The metric in force: 0 for IPv4 and 1024 for IPv6 (`IP6_RT_PRIO_USER`) where none is asked for.
    pub fn metric_in_force(&self) -> u32 {
        self.metric_asked().unwrap_or(if self.is_ipv6() { 1024 } else { 0 })
    }

    /// Rules of one entry; brings the destination to canonical form.
    pub fn settle(&mut self) -> Result<(), Invalid> {
        if matches!(self.state, Some(State::Up | State::Down)) {
            return Err(Invalid::new("state", "a route is there or has state: absent"));
        }
        if let Some(text) = &self.destination {
            let Some(net) = net(text) else {
                let reason = format!("'{text}' is not a network in CIDR notation");
                return Err(Invalid::new("destination", reason));
            };
            self.destination = Some(net.to_string());
        }
        self.settle_next_hop()?;
        if self.metric.is_some_and(|m| m < -1 || m > i64::from(u32::MAX)) {
            let reason = format!("{} is outside -1–{}", self.metric.unwrap_or_default(), u32::MAX);
            return Err(Invalid::new("metric", reason));
        }
        match self.is_absent() {
            true => Ok(()),
            false => self.settle_present(),
        }
    }

    fn settle_next_hop(&self) -> Result<(), Invalid> {
        let Some(text) = &self.next_hop_address else {
            return Ok(());
        };
        match text.parse::<IpAddr>() {
            Err(_) => Err(Invalid::new(
                "next-hop-address",
                format!("'{text}' is not an IP address"),
            )),
            Ok(ip) if !ip.is_unspecified() && self.destination.is_some() && ip.is_ipv6() != self.is_ipv6() => {
                let to = self.destination.as_deref().unwrap_or_default();
                let reason = format!("{ip} is of another IP family than {to}");
                Err(Invalid::new("next-hop-address", reason))
            }
            Ok(_) => Ok(()),
        }
    }

    /// What a route that shall be there needs besides.
    fn settle_present(&self) -> Result<(), Invalid> {
        if self.destination.is_none() {
            return Err(Invalid::new("destination", "a route needs a destination"));
        }
        let swallows = "a blackhole, unreachable or prohibit route has no next hop";
        match (self.route_type, &self.next_hop_interface) {
            (None, None) => {
                let reason = "a route needs next-hop-interface";
                return Err(Invalid::of(
                    ErrorKind::NotImplementedError,
                    "next-hop-interface",
                    reason,
                ));
            }
            (Some(_), _) if self.gateway().is_some() => return Err(Invalid::new("next-hop-address", swallows)),
            (Some(_), Some(i)) if i != LOOPBACK => return Err(Invalid::new("next-hop-interface", swallows)),
            _ => {}
        }
        if self.route_type.is_none() && self.destination.as_deref().is_some_and(in_this_network) {
            let reason = "0.0.0.0/8 means 'this network' and cannot be routed";
            return Err(Invalid::new("destination", reason));
        }
        for (key, value) in [("cwnd", self.cwnd), ("mtu", self.mtu), ("advmss", self.advmss)] {
            if value == Some(0) {
                return Err(Invalid::new(key, "it must not be 0"));
            }
        }
        if self.lock_mtu == Some(true) && self.mtu.is_none() {
            return Err(Invalid::new("lock-mtu", "it needs mtu"));
        }
        match self.weight {
            Some(w) if !(1..=256).contains(&w) => Err(Invalid::new("weight", format!("{w} is outside 1–256"))),
            Some(_) if self.is_ipv6() => Err(Invalid::of(
                ErrorKind::NotSupportedError,
                "weight",
                "NetworkManager has no weights for IPv6; routes of one destination and metric share the traffic without",
            )),
            _ => Ok(()),
        }
    }

    /// Interface whose profile keeps it: routes without next hop live on `lo`.
    pub fn keeper(&self) -> &str {
        self.next_hop_interface.as_deref().unwrap_or(LOOPBACK)
    }

    /// Every key that `self` gives besides who it leads to has this value in `other`.
    pub fn attributes_match(&self, other: &Route) -> bool {
        let Route {
            state: _,
            destination: _,
            next_hop_interface: _,
            next_hop_address: _,
            metric: _,
            table_id: _,
            vrf_name: _,
            route_type: _,
            source,
            weight,
            cwnd,
            mtu,
            lock_mtu,
            advmss,
            initcwnd,
            initrwnd,
            quickack,
        } = self;
        let number = |mine: &Option<u32>, theirs: &Option<u32>| mine.is_none_or(|v| v == theirs.unwrap_or(0));
        let flag = |mine: &Option<bool>, theirs: &Option<bool>| mine.is_none_or(|v| v == theirs.unwrap_or(false));
        source.is_none_or(|s| Some(s) == other.source)
            // the kernel tells no weight of a route with one hop
            && weight.is_none_or(|w| other.weight.is_none_or(|theirs| w == theirs))
            && number(cwnd, &other.cwnd)
            && number(mtu, &other.mtu)
            && flag(lock_mtu, &other.lock_mtu)
            && number(advmss, &other.advmss)
            && number(initcwnd, &other.initcwnd)
            && number(initrwnd, &other.initrwnd)
            && flag(quickack, &other.quickack)
    }

    /// As a filter (`state: absent`): every key that `self` gives has this value in `other`.
    pub fn matches(&self, other: &Route) -> bool {
        self.destination
            .as_ref()
            .is_none_or(|d| Some(d) == other.destination.as_ref())
            && self.next_hop_interface.as_deref().is_none_or(|i| i == other.keeper())
            && self
                .next_hop_address
                .as_ref()
                .is_none_or(|_| self.gateway() == other.gateway())
            && self.metric_asked().is_none_or(|m| Some(m) == other.metric_asked())
            && self.table_id.is_none_or(|_| self.table() == other.table())
            && self.route_type.is_none_or(|t| Some(t) == other.route_type)
            && self.attributes_match(other)
    }

    /// Both lead to the same place: for the kernel the one stands where the other would. Without a metric asked for any will do.
    pub fn same_place(&self, other: &Route) -> bool {
        let place = |r: &Route| (r.destination.clone(), r.table(), r.route_type.is_some());
        place(self) == place(other)
            && (self.route_type.is_some() || (self.keeper() == other.keeper() && self.gateway() == other.gateway()))
            && self
                .metric_asked()
                .is_none_or(|m| other.metric_asked().is_none_or(|o| m == o))
    }

    /// As a wish: `other` is what it asks for.
    pub fn served_by(&self, other: &Route) -> bool {
        self.same_place(other)
            && self.route_type == other.route_type
            && self.metric_asked().is_none_or(|m| Some(m) == other.metric_asked())
            && self.attributes_match(other)
    }

    /// With everything spelled out, so that two entries that mean the same are equal.
    pub fn canonical(&self) -> Route {
        Route {
            state: None,
            next_hop_interface: Some(self.keeper().to_owned()),
            next_hop_address: self.gateway().map(|g| g.to_string()),
            metric: Some(self.metric_in_force().into()),
            table_id: Some(self.table()),
            ..self.clone()
        }
    }

    /// What decides which routes share the traffic: destination, table and metric.
    pub fn place(&self) -> (Option<&str>, u32, u32) {
        (self.destination.as_deref(), self.table(), self.metric_in_force())
    }

    /// What several hops of one route have in common.
    pub fn without_hop(&self) -> Route {
        Route {
            next_hop_interface: None,
            next_hop_address: None,
            weight: None,
            lock_mtu: self.lock_mtu.filter(|on| *on),
            quickack: self.quickack.filter(|on| *on),
            ..self.canonical()
        }
    }

    /// Of two wishes that one route could serve, the one that asks for more goes first: a metric, then the number of keys.
    pub fn demands(&self) -> (bool, usize) {
        let keys = match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(map)) => map.len(),
            _ => 0,
        };
        (self.metric_asked().is_some(), keys)
    }

    /// Entry of `route-data`; without a metric where none is asked for.
    pub fn to_nm(&self) -> Dict {
        let Route {
            state: _,
            destination,
            next_hop_interface: _, // its profile holds it
            next_hop_address: _,   // by `gateway`
            source,
            metric: _,   // by `metric_asked`
            table_id: _, // by `table`
            vrf_name: _, // resolved to its table
            weight,
            route_type,
            cwnd,
            mtu,
            lock_mtu,
            advmss,
            initcwnd,
            initrwnd,
            quickack,
        } = self;
        let mut d = Dict::new();
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                d.insert(key.to_owned(), value);
            }
        };
        if let Some(net) = destination.as_deref().and_then(net) {
            put("dest", Some(net.addr().to_string().into()));
            put("prefix", Some(u32::from(net.prefix_len()).into()));
        }
        put("next-hop", self.gateway().map(|g| g.to_string().into()));
        put("metric", self.metric_asked().map(Value::U32));
        // spelled out, as a profile may send its other routes elsewhere (`route-table`)
        put("table", Some(self.table().into()));
        put("src", source.map(|s| s.to_string().into()));
        put("weight", weight.map(|w| u32::from(w).into()));
        put("type", route_type.map(|t| t.word().into()));
        put("cwnd", cwnd.map(Value::U32));
        // the kernel minds a congestion window only where it is locked
        put("lock-cwnd", cwnd.map(|_| Value::Bool(true)));
        put("mtu", mtu.map(Value::U32));
        put("lock-mtu", lock_mtu.map(Value::Bool));
        put("advmss", advmss.map(Value::U32));
        put("initcwnd", initcwnd.map(Value::U32));
        put("initrwnd", initrwnd.map(Value::U32));
        put("quickack", quickack.map(Value::Bool));
        d
    }

    /// Reads an entry of `route-data`; `table` is where the profile sends routes that name none.
    pub fn from_nm(d: &Dict, interface: &str, table: u32) -> Option<Self> {
        let text = |key: &str| match d.get(key) {
            Some(Value::Str(s)) => Some(s.as_str()),
            _ => None,
        };
        let number = |key: &str| match d.get(key) {
            Some(Value::U32(v)) => Some(*v),
            _ => None,
        };
        let flag = |key: &str| match d.get(key) {
            Some(Value::Bool(b)) => Some(*b),
            _ => None,
        };
        let kind = [RouteType::Blackhole, RouteType::Unreachable, RouteType::Prohibit]
            .into_iter()
            .find(|t| text("type") == Some(t.word()));
        Some(Route {
            state: None,
            destination: Some(net(&format!("{}/{}", text("dest")?, number("prefix")?))?.to_string()),
            next_hop_interface: kind.is_none().then(|| interface.to_owned()),
            next_hop_address: text("next-hop").map(str::to_owned),
            source: text("src").and_then(|s| s.parse().ok()),
            metric: number("metric").map(i64::from),
            table_id: Some(number("table").filter(|t| *t != 0).unwrap_or(table)),
            vrf_name: None,
            weight: number("weight").and_then(|w| w.try_into().ok()),
            route_type: kind,
            cwnd: number("cwnd"),
            mtu: number("mtu"),
            lock_mtu: flag("lock-mtu"),
            advmss: number("advmss"),
            initcwnd: number("initcwnd"),
            initrwnd: number("initrwnd"),
            quickack: flag("quickack"),
        })
    }

    /// Reads a kernel route. The default gateway's absence is printed as the family's zero address, as scripts expect.
    pub fn from_facts(r: &facts::Route, facts: &Facts) -> Self {
        let link = r.link.and_then(|i| facts.link_by_index(i));
        let ipv6 = r.destination.addr().is_ipv6();
        let kind = match r.kind {
            6 => Some(RouteType::Blackhole),
            7 => Some(RouteType::Unreachable),
            8 => Some(RouteType::Prohibit),
            _ => None,
        };
        let none = if ipv6 { "::" } else { "0.0.0.0" };
        let ignored = link
            .filter(|_| kind.is_none())
            .is_some_and(|l| Base::state(&Id::kernel(&l.name), l, facts) == State::Ignore);
        let m = |key: &str| r.metrics.get(key).copied();
        Route {
            state: ignored.then_some(State::Ignore),
            destination: Some(r.destination.to_string()),
            // of routes that swallow packets the kernel names `lo` for IPv6 only
            next_hop_interface: link.filter(|_| kind.is_none() || ipv6).map(|l| l.name.clone()),
            next_hop_address: kind
                .is_none()
                .then(|| r.gateway.map_or(none.to_owned(), |g| g.to_string())),
            source: r.source,
            metric: Some(r.metric.unwrap_or(0).into()),
            table_id: Some(r.table),
            vrf_name: None,
            weight: r.weight.filter(|_| !ipv6),
            route_type: kind,
            cwnd: m("cwnd"),
            mtu: m("mtu"),
            lock_mtu: m("lock").filter(|l| l & LOCK_MTU != 0).map(|_| true),
            advmss: m("advmss"),
            initcwnd: m("initcwnd"),
            initrwnd: m("initrwnd"),
            quickack: m("quickack").map(|v| v != 0),
        }
    }
}

/// 0.0.0.0/8 and what is within; the default route and halves of everything are not.
fn in_this_network(destination: &str) -> bool {
    let Some(IpNet::V4(net)) = net(destination) else {
        return false;
    };
    Ipv4Net::new(std::net::Ipv4Addr::UNSPECIFIED, 8).is_ok_and(|zero| zero.contains(&net))
}

/// None beside it that could share the traffic with it: the kernel tells no weight of a route with one hop.
pub fn is_alone(route: &Route, all: &[&Route]) -> bool {
    all.iter().filter(|other| other.place() == route.place()).count() < 2
}

/// Which wishes, by their place in the list, have no route in `have`. A route serves one wish only, or several that mean the same.
pub fn unserved(wishes: &[&Route], have: &[&Route]) -> Vec<usize> {
    let mut places: HashMap<Option<&str>, Vec<(&Route, bool)>> = HashMap::new();
    for route in have.iter().filter(|r| !r.is_ignored()) {
        let place = places.entry(route.destination.as_deref()).or_default();
        place.push((route, false));
    }
    let mut order: Vec<usize> = (0..wishes.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(wishes[*at].demands()));
    let mut served: HashMap<Option<&str>, Vec<Route>> = HashMap::new();
    let mut missing = vec![];
    for at in order {
        let wish = wishes[at];
        let twins = served.entry(wish.destination.as_deref()).or_default();
        let canonical = wish.canonical();
        if twins.contains(&canonical) {
            continue;
        }
        let place = places.get_mut(&wish.destination.as_deref());
        let mut free = place.into_iter().flatten().filter(|(_, taken)| !taken);
        let weighed = |route: &Route| wish.weight.is_none() || route.weight.is_some() || is_alone(route, have);
        match free.find(|(route, _)| wish.served_by(route) && weighed(route)) {
            Some((_, taken)) => {
                *taken = true;
                twins.push(canonical);
            }
            None => missing.push(at),
        }
    }
    missing.sort_unstable();
    missing
}

/// Reads `routes`: running keeps what routing daemons, DHCP and RA put there; config is what a person wrote (boot 3, static 4).
pub fn from_facts(facts: &Facts) -> Routes {
    // RTPROT_*: boot 3, static 4, ra 9, mrouted 17, dhcp 16, keepalived 18, babel 42
    let wanted = |r: &&facts::Route| {
        matches!(r.protocol, 3 | 4 | 9 | 16 | 17 | 18 | 42)
            && matches!(r.scope, 0 | 253)
            && matches!(r.kind, 1 | 6 | 7 | 8)
    };
    let all: Vec<&facts::Route> = facts.routes.iter().filter(wanted).collect();
    let config = all
        .iter()
        .filter(|r| matches!(r.protocol, 3 | 4))
        .map(|r| Route::from_facts(r, facts));
    Routes {
        config: Some(config.collect()),
        running: Some(all.iter().map(|r| Route::from_facts(r, facts)).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(text: &str) -> Route {
        serde_json::from_value(crate::yaml::read(text).unwrap()).unwrap()
    }

    #[test]
    fn survives_the_profile() {
        let mut full = route(
            "{destination: 198.51.100.7/24, next-hop-interface: eth1, next-hop-address: 192.0.2.1, source: 192.0.2.9,
              metric: 100, table-id: 200, weight: 3, cwnd: 20, mtu: 1400, lock-mtu: true, advmss: 1300, initcwnd: 10,
              initrwnd: 20, quickack: true}",
        );
        full.settle().unwrap();
        assert_eq!(full.destination.as_deref(), Some("198.51.100.0/24"));
        assert_eq!(full.to_nm().get("lock-cwnd"), Some(&Value::Bool(true)));
        assert_eq!(Route::from_nm(&full.to_nm(), "eth1", MAIN), Some(full));
    }

    #[test]
    fn a_profile_may_send_its_routes_to_another_table() {
        let mut plain = route("{destination: 10.0.0.0/8, next-hop-interface: eth1}");
        plain.settle().unwrap();
        let mut entry = plain.to_nm();
        assert_eq!(Route::from_nm(&entry, "eth1", 100).unwrap().table(), MAIN);
        entry.remove("table");
        assert_eq!(Route::from_nm(&entry, "eth1", 100).unwrap().table(), 100);
    }

    #[test]
    fn absent_is_a_filter() {
        let have = route(
            "{destination: 198.51.100.0/24, next-hop-interface: eth1, next-hop-address: 192.0.2.1, metric: 100, table-id: 254}",
        );
        for (filter, hit) in [
            ("{state: absent}", true),
            ("{state: absent, next-hop-interface: eth1}", true),
            ("{state: absent, metric: 100}", true),
            ("{state: absent, metric: -1}", true),
            ("{state: absent, metric: 50}", false),
            ("{state: absent, table-id: 0}", true),
            ("{state: absent, table-id: 100}", false),
            ("{state: absent, next-hop-address: 0.0.0.0}", false),
            ("{state: absent, route-type: blackhole}", false),
        ] {
            assert_eq!(route(filter).matches(&have), hit, "{filter}");
        }
    }

    #[test]
    fn a_wish_gets_a_route_of_its_own() {
        let at = |metric: &str| {
            let mut r = route(&format!(
                "{{destination: 10.0.0.0/8, next-hop-interface: e, next-hop-address: 192.0.2.1, {metric}}}"
            ));
            r.settle().unwrap();
            r
        };
        let (any, low, high) = (at("table-id: 0"), at("metric: 0"), at("metric: 100"));
        assert_eq!(unserved(&[&any, &high], &[&high]), [0]);
        assert_eq!(unserved(&[&any, &high], &[&high, &low]), [0usize; 0]);
        assert_eq!(unserved(&[&any, &low], &[&low]), [0usize; 0], "both mean the same");
    }

    #[test]
    fn faults_name_their_key() {
        for (text, path) in [
            ("{destination: x, next-hop-interface: e}", "destination"),
            ("{destination: 10.0.0.0/8}", "next-hop-interface"),
            (
                "{destination: 10.0.0.0/8, next-hop-interface: e, next-hop-address: '::1'}",
                "next-hop-address",
            ),
            (
                "{destination: 10.0.0.0/8, next-hop-interface: e, weight: 300}",
                "weight",
            ),
            ("{destination: 0.1.0.0/16, next-hop-interface: e}", "destination"),
            ("{destination: 10.0.0.0/8, next-hop-interface: e, mtu: 0}", "mtu"),
        ] {
            assert_eq!(route(text).settle().unwrap_err().path, path, "{text}");
        }
        for fine in ["0.0.0.0/0", "0.0.0.0/1", "::/0"] {
            assert_eq!(
                route(&format!("{{destination: '{fine}', next-hop-interface: e}}")).settle(),
                Ok(())
            );
        }
    }
}
