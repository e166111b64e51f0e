//! Whether waiting can still help: no route to any target, and nothing under way that could bring one. Pure.

use std::net::IpAddr;

use netlink_packet_route::link::{BridgePortState, InfoBridgePort};

use crate::facts::{Facts, Route};

use super::{Baseline, Cluster, ProbeKind, ProbeSpec};

/// A default gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Its address.
    pub ip: IpAddr,
    /// Interface index, the scope of a link-local address.
    pub link: u32,
}

/// The default gateways of the main table that packets take: in each family those of the best metric.
pub fn gateways(facts: &Facts) -> Vec<Gateway> {
    let routes = facts
        .routes
        .iter()
        .filter(|r| r.table == 254 && r.kind == 1 && r.destination.prefix_len() == 0);
    let place = |r: &Route| (r.destination.addr().is_ipv6(), r.metric.unwrap_or(0));
    let all: Vec<_> = routes
        .filter_map(|r| {
            let gateway = Gateway {
                ip: r.gateway?,
                link: r.link?,
            };
            Some((place(r), gateway))
        })
        .collect();
    let best = |v6: bool| {
        all.iter()
            .filter(|((family, _), _)| *family == v6)
            .map(|(place, _)| *place)
            .min()
    };
    let taken = all.iter().filter(|(place, _)| best(place.0) == Some(*place));
    taken.map(|(_, gateway)| gateway.clone()).collect()
}

/// Some with the reason where the probe cannot pass any more as the node stands.
pub fn lost(
    spec: &ProbeSpec,
    cluster: Option<&Cluster>,
    baseline: &Baseline,
    touched: &[String],
    facts: &Facts,
) -> Option<String> {
    let targets: Vec<IpAddr> = match &spec.kind {
        ProbeKind::Gateway => match gateways(facts) {
            now if now.is_empty() => {
                let old: Vec<IpAddr> = baseline.gateways.iter().copied().collect();
                let v6 = old.iter().all(IpAddr::is_ipv6);
                return settled(facts, touched, v6).then(|| gone(&old, "the default route is gone"));
            }
            now => now.iter().map(|g| g.ip).collect(),
        },
        ProbeKind::Dns(_) if facts.dns.asked().is_empty() => {
            let rests = settled(facts, touched, false) && settled(facts, touched, true);
            return rests.then(|| "no name server is left".to_owned());
        }
        ProbeKind::Dns(_) => facts.dns.asked().iter().filter_map(|s| s.parse().ok()).collect(),
        ProbeKind::ApiServer | ProbeKind::NodeReadiness => cluster?.address().into_iter().collect(),
        ProbeKind::Tcp(host, _) | ProbeKind::Ping(host) => host.parse().ok().into_iter().collect(),
        ProbeKind::Http(_) => vec![],
    };
    let without = |ip: &IpAddr| !has_route(facts, ip) && settled(facts, touched, ip.is_ipv6());
    (!targets.is_empty() && targets.iter().all(without)).then(|| gone(&targets, "no route is left"))
}

fn gone(targets: &[IpAddr], otherwise: &str) -> String {
    match targets {
        [] => otherwise.to_owned(),
        all => format!(
            "no route to {}",
            all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ),
    }
}

/// Any table has a unicast route that covers it over a link that is up, or it is our own. Rules may forbid more; that is not for us to guess.
fn has_route(facts: &Facts, ip: &IpAddr) -> bool {
    let up = |r: &Route| r.link.and_then(|l| facts.link_by_index(l)).is_none_or(|l| l.admin_up);
    ip.is_loopback()
        || facts.addresses.iter().any(|a| a.ip == *ip)
        || facts
            .routes
            .iter()
            .any(|r| r.kind == 1 && r.destination.contains(ip) && up(r))
}

/// Nothing under way on the touched interfaces: activated or down for good, no DHCP or RA awaited for the family, no STP on its way to forwarding.
fn settled(facts: &Facts, touched: &[String], ipv6: bool) -> bool {
    touched.iter().all(|name| {
        let Some(device) = facts.device(name) else { return true };
        let moving = (31..100).contains(&device.state) || device.state == 110;
        // NetworkManager calls a device activated as soon as one family is done
        let section = if ipv6 { "ipv6" } else { "ipv4" };
        let auto = facts
            .active_profile(name)
            .is_some_and(|p| p.profile.str(section, "method") == Some("auto"));
        let link = facts.link(name);
        let has = |index: u32| {
            facts
                .addresses
                .iter()
                .any(|a| a.link == index && a.dynamic && a.ip.is_ipv6() == ipv6)
        };
        let awaited = device.state == 100 && auto && link.is_some_and(|l| !has(l.index));
        let learning = facts
            .links
            .iter()
            .filter(|l| l.name == *name || (l.controller.is_some() && l.controller == link.map(|c| c.index)))
            .flat_map(|l| l.bridge_port())
            .any(|p| {
                matches!(
                    p,
                    InfoBridgePort::State(BridgePortState::Listening | BridgePortState::Learning)
                )
            });
        !(moving || awaited || learning)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Device, Link};
    use netlink_packet_route::link::InfoPortData;
    use std::time::Duration;

    fn node(state: u32, routes: &[(&str, Option<&str>)]) -> Facts {
        let route = |(to, via): &(&str, Option<&str>)| Route {
            destination: to.parse().unwrap(),
            gateway: via.map(|g| g.parse().unwrap()),
            link: Some(2),
            table: 254,
            metric: None,
            protocol: 4,
            scope: 0,
            kind: 1,
            source: None,
            weight: None,
            metrics: Default::default(),
        };
        Facts {
            links: vec![Link {
                index: 2,
                name: "eth0".into(),
                admin_up: true,
                ..Link::default()
            }],
            devices: vec![Device {
                interface: "eth0".into(),
                state,
                ..Device::default()
            }],
            routes: routes.iter().map(route).collect(),
            ..Facts::default()
        }
    }

    fn ask(kind: ProbeKind, facts: &Facts) -> Option<String> {
        let spec = ProbeSpec {
            name: "x".into(),
            kind,
            timeout: Duration::from_secs(120),
            required: true,
        };
        let baseline = Baseline {
            gateways: ["192.0.2.1".parse().unwrap()].into(),
            ..Baseline::default()
        };
        lost(&spec, None, &baseline, &["eth0".to_owned()], facts)
    }

    #[test]
    fn no_default_route_and_settled_is_hopeless() {
        assert_eq!(
            ask(ProbeKind::Gateway, &node(100, &[])),
            Some("no route to 192.0.2.1".into())
        );
        assert_eq!(ask(ProbeKind::Gateway, &node(70, &[])), None, "still configuring");
        assert_eq!(
            ask(
                ProbeKind::Gateway,
                &node(100, &[("192.0.2.0/24", None), ("0.0.0.0/0", Some("192.0.2.1"))])
            ),
            None
        );
    }

    #[test]
    fn a_target_without_route_is_hopeless() {
        let kind = || ProbeKind::Tcp("198.51.100.1".into(), 80);
        assert!(ask(kind(), &node(100, &[("192.0.2.0/24", None)])).is_some());
        assert_eq!(ask(kind(), &node(100, &[("0.0.0.0/0", Some("192.0.2.1"))])), None);
        assert_eq!(
            ask(ProbeKind::Tcp("storage.example".into(), 80), &node(100, &[])),
            None,
            "a name may resolve again"
        );
    }

    #[test]
    fn a_gateway_that_no_packet_takes_proves_nothing() {
        let mut facts = node(100, &[]);
        for (to, via, metric) in [
            ("0.0.0.0/0", "192.0.2.1", 100),
            ("0.0.0.0/0", "192.0.2.99", 5),
            ("0.0.0.0/0", "192.0.2.98", 5),
            ("::/0", "2001:db8::1", 1024),
        ] {
            let mut route = node(100, &[(to, Some(via))]).routes.remove(0);
            route.metric = Some(metric);
            facts.routes.push(route);
        }
        let all: Vec<String> = gateways(&facts).iter().map(|g| g.ip.to_string()).collect();
        assert_eq!(all, ["192.0.2.99", "192.0.2.98", "2001:db8::1"]);
    }

    #[test]
    fn stp_on_its_way_is_hope() {
        let mut facts = node(100, &[]);
        facts.links[0].port_data = Some(InfoPortData::BridgePort(vec![InfoBridgePort::State(
            BridgePortState::Learning,
        )]));
        assert_eq!(ask(ProbeKind::Gateway, &facts), None);
    }
}
