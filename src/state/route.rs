//! `routes`: what is asked for and what runs; how a route is kept in the profile of its next hop's interface.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::Invalid;
use crate::facts::{self, Facts};
use crate::profile::{Dict, Value};
use crate::scalar;

use super::iface::State;

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
    fn word(self) -> &'static str {
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

impl Route {
    /// Wanted gone.
    pub fn is_absent(&self) -> bool {
        self.state == Some(State::Absent)
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

    /// Rules of one entry; brings the destination to canonical form.
    pub fn settle(&mut self) -> Result<(), Invalid> {
        if let Some(text) = &self.destination {
            let Some(net) = net(text) else {
                return Err(Invalid::new(
                    "destination",
                    format!("'{text}' is not a network in CIDR notation"),
                ));
            };
            self.destination = Some(net.to_string());
        }
        if let Some(text) = &self.next_hop_address {
            match text.parse::<IpAddr>() {
                Err(_) => {
                    return Err(Invalid::new(
                        "next-hop-address",
                        format!("'{text}' is not an IP address"),
                    ));
                }
                Ok(ip) if self.destination.is_some() && ip.is_ipv6() != self.is_ipv6() => {
                    return Err(Invalid::new(
                        "next-hop-address",
                        format!(
                            "{ip} is of another IP family than {}",
                            self.destination.as_deref().unwrap_or("")
                        ),
                    ));
                }
                Ok(_) => {}
            }
        }
        if self.is_absent() {
            return Ok(());
        }
        if self.destination.is_none() {
            return Err(Invalid::new("destination", "a route needs a destination"));
        }
        match (self.route_type, &self.next_hop_interface) {
            (None, None) => {
                return Err(Invalid::new("next-hop-interface", "a route needs next-hop-interface"));
            }
            (Some(_), _) if self.gateway().is_some() => {
                return Err(Invalid::new(
                    "next-hop-address",
                    "a blackhole, unreachable or prohibit route has no next hop",
                ));
            }
            (Some(_), Some(i)) if i != "lo" => {
                return Err(Invalid::new(
                    "next-hop-interface",
                    "a blackhole, unreachable or prohibit route has no next hop",
                ));
            }
            _ => {}
        }
        match self.weight {
            Some(w) if !(1..=256).contains(&w) => Err(Invalid::new("weight", format!("{w} is outside 1–256"))),
            Some(_) if self.is_ipv6() => Err(Invalid::new("weight", "NetworkManager has no IPv6 multipath weights")),
            _ => Ok(()),
        }
    }

    /// Interface whose profile keeps it: routes without next hop live on `lo`.
    pub fn keeper(&self) -> &str {
        self.next_hop_interface.as_deref().unwrap_or("lo")
    }

    /// Everything that `self` gives is so in `other`.
    pub fn matches(&self, other: &Route) -> bool {
        let same = |mine: Option<bool>| mine.unwrap_or(true);
        let Route {
            state: _,
            destination,
            next_hop_interface,
            next_hop_address,
            source,
            metric,
            table_id,
            weight,
            route_type,
            cwnd,
            mtu,
            advmss,
            initcwnd,
            initrwnd,
            quickack,
        } = self;
        same(destination.as_ref().map(|d| Some(d) == other.destination.as_ref()))
            && same(
                next_hop_interface
                    .as_ref()
                    .filter(|_| route_type.is_none())
                    .map(|i| Some(i) == other.next_hop_interface.as_ref()),
            )
            && same(next_hop_address.as_ref().map(|_| self.gateway() == other.gateway()))
            && same(source.map(|s| Some(s) == other.source))
            && same(metric.filter(|m| *m >= 0).map(|m| m == other.metric.unwrap_or(-1)))
            && same(table_id.map(|_| self.table() == other.table()))
            && (self.is_absent() || self.table() == other.table())
            && (if self.is_absent() {
                same(route_type.map(|t| Some(t) == other.route_type))
            } else {
                *route_type == other.route_type
            })
            && same(weight.map(|w| Some(w) == other.weight))
            && same(cwnd.map(|v| Some(v) == other.cwnd))
            && same(mtu.map(|v| Some(v) == other.mtu))
            && same(advmss.map(|v| Some(v) == other.advmss))
            && same(initcwnd.map(|v| Some(v) == other.initcwnd))
            && same(initrwnd.map(|v| Some(v) == other.initrwnd))
            && same(quickack.map(|v| v == other.quickack.unwrap_or(false)))
    }

    /// Entry of `route-data`.
    pub fn to_nm(&self) -> Dict {
        let mut d = Dict::new();
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                d.insert(key.to_owned(), value);
            }
        };
        if let Some(net) = self.destination.as_deref().and_then(net) {
            put("dest", Some(net.addr().to_string().into()));
            put("prefix", Some(u32::from(net.prefix_len()).into()));
        }
        put("next-hop", self.gateway().map(|g| g.to_string().into()));
        put(
            "metric",
            self.metric.and_then(|m| u32::try_from(m).ok()).map(Value::U32),
        );
        put("table", (self.table() != MAIN).then(|| self.table().into()));
        put("src", self.source.map(|s| s.to_string().into()));
        put("weight", self.weight.map(|w| u32::from(w).into()));
        put("type", self.route_type.map(|t| t.word().into()));
        put("cwnd", self.cwnd.map(Value::U32));
        put("lock-cwnd", self.cwnd.map(|_| Value::Bool(true)));
        put("mtu", self.mtu.map(Value::U32));
        put("advmss", self.advmss.map(Value::U32));
        put("initcwnd", self.initcwnd.map(Value::U32));
        put("initrwnd", self.initrwnd.map(Value::U32));
        put("quickack", self.quickack.map(Value::Bool));
        d
    }

    /// Reads an entry of `route-data`.
    pub fn from_nm(d: &Dict, interface: &str) -> Option<Self> {
        let text = |key: &str| match d.get(key) {
            Some(Value::Str(s)) => Some(s.as_str()),
            _ => None,
        };
        let number = |key: &str| match d.get(key) {
            Some(Value::U32(v)) => Some(*v),
            _ => None,
        };
        let kind = match text("type") {
            Some("blackhole") => Some(RouteType::Blackhole),
            Some("unreachable") => Some(RouteType::Unreachable),
            Some("prohibit") => Some(RouteType::Prohibit),
            _ => None,
        };
        Some(Route {
            state: None,
            destination: Some(net(&format!("{}/{}", text("dest")?, number("prefix")?))?.to_string()),
            next_hop_interface: kind.is_none().then(|| interface.to_owned()),
            next_hop_address: text("next-hop").map(str::to_owned),
            source: text("src").and_then(|s| s.parse().ok()),
            metric: number("metric").map(i64::from),
            table_id: Some(number("table").filter(|t| *t != 0).unwrap_or(MAIN)),
            weight: number("weight").and_then(|w| w.try_into().ok()),
            route_type: kind,
            cwnd: number("cwnd"),
            mtu: number("mtu"),
            advmss: number("advmss"),
            initcwnd: number("initcwnd"),
            initrwnd: number("initrwnd"),
            quickack: match d.get("quickack") {
                Some(Value::Bool(b)) => Some(*b),
                _ => None,
            },
        })
    }

    /// Reads a kernel route. The default gateway's absence is printed as the family's zero address, as scripts expect.
    pub fn from_facts(r: &facts::Route, facts: &Facts) -> Self {
        let interface = r.link.and_then(|i| facts.link_by_index(i)).map(|l| l.name.clone());
        let kind = match r.kind {
            6 => Some(RouteType::Blackhole),
            7 => Some(RouteType::Unreachable),
            8 => Some(RouteType::Prohibit),
            _ => None,
        };
        let none = if r.destination.addr().is_ipv6() {
            "::"
        } else {
            "0.0.0.0"
        };
        let m = |key: &str| r.metrics.get(key).copied();
        Route {
            state: None,
            destination: Some(r.destination.to_string()),
            next_hop_interface: interface.filter(|_| kind.is_none()),
            next_hop_address: kind
                .is_none()
                .then(|| r.gateway.map_or(none.to_owned(), |g| g.to_string())),
            source: r.source,
            metric: Some(r.metric.unwrap_or(0).into()),
            table_id: Some(r.table),
            weight: r.weight,
            route_type: kind,
            cwnd: m("cwnd"),
            mtu: m("mtu"),
            advmss: m("advmss"),
            initcwnd: m("initcwnd"),
            initrwnd: m("initrwnd"),
            quickack: m("quickack").map(|v| v != 0),
        }
    }
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
            "{destination: 198.51.100.7/24, next-hop-interface: eth1, next-hop-address: 192.0.2.1, metric: 100, table-id: 200, weight: 3, mtu: 1400, quickack: true, source: 192.0.2.9, initcwnd: 10}",
        );
        full.settle().unwrap();
        assert_eq!(full.destination.as_deref(), Some("198.51.100.0/24"));
        assert_eq!(Route::from_nm(&full.to_nm(), "eth1"), Some(full));
    }

    #[test]
    fn absent_is_a_filter() {
        let have = route(
            "{destination: 198.51.100.0/24, next-hop-interface: eth1, next-hop-address: 192.0.2.1, metric: 100, table-id: 254}",
        );
        assert!(route("{state: absent, next-hop-interface: eth1}").matches(&have));
        assert!(route("{state: absent}").matches(&have));
        assert!(!route("{state: absent, metric: 50}").matches(&have));
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
        ] {
            assert_eq!(route(text).settle().unwrap_err().path, path, "{text}");
        }
    }
}
