//! What NetworkManager does to addresses, routes, rules and DNS of the small machine.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Machine;
use crate::facts::{Active, Address, Route, Rule, SavedProfile};
use crate::profile::Profile;
use crate::scalar::Id;
use crate::state::dns::of_profiles;
use crate::state::route::{self, RouteType};
use crate::state::rule;

/// `RTPROT_STATIC`: what NetworkManager makes of a profile.
const STATIC: u8 = 4;
/// `RTPROT_DHCP`.
const DHCP: u8 = 16;

impl Machine {
    /// NetworkManager 1.42 and later show the loopback as configured by somebody else.
    pub(super) fn loopback(&mut self) {
        let mut profile = Profile::default();
        for (key, value) in [
            ("id", "lo"),
            ("uuid", "lo"),
            ("type", "loopback"),
            ("interface-name", "lo"),
        ] {
            profile.put("connection", key, value);
        }
        self.facts.profiles.push(SavedProfile {
            path: "/s/lo".to_owned(),
            profile,
            // volatile, generated, external
            flags: 0xe,
            filename: "/run/NetworkManager/system-connections/lo.nmconnection".to_owned(),
            ..SavedProfile::default()
        });
        for device in self.facts.devices.iter_mut().filter(|d| d.interface == "lo") {
            device.state = 100;
            device.active = Some(Active {
                path: "/a/lo".to_owned(),
                uuid: "lo".to_owned(),
                state: 2,
                // NM_ACTIVATION_STATE_FLAG_EXTERNAL
                flags: 0x80,
            });
        }
        self.own_addresses("lo");
    }

    /// The kernel gives `lo` its addresses whatever else is configured.
    pub(super) fn own_addresses(&mut self, iface: &str) {
        let index = self.facts.link(iface).filter(|l| l.arphrd == 772).map(|l| l.index);
        let own = [
            (IpAddr::V4(Ipv4Addr::LOCALHOST), 8),
            (IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
        ];
        if let Some(index) = index.filter(|i| self.facts.addresses_of(*i).is_empty()) {
            own.into_iter()
                .for_each(|(ip, prefix)| self.address(index, ip, prefix, false));
        }
    }

    fn address(&mut self, link: u32, ip: IpAddr, prefix: u8, dynamic: bool) {
        self.facts.addresses.push(Address {
            link,
            ip,
            prefix,
            dynamic,
            valid: dynamic.then_some(3600),
            preferred: dynamic.then_some(3600),
            protocol: 0,
            duplicate: false,
        });
    }

    /// A full activation takes the device down first: everything on it goes.
    pub(super) fn flush(&mut self, id: &Id) {
        let index = self.facts.link(&id.name).map(|l| l.index);
        self.facts.routes.retain(|r| r.link.is_none() || r.link != index);
    }

    pub(super) fn addresses(&mut self, index: u32, iface: &str, profile: &Profile) {
        // what another program gave stays
        let goes = |a: &Address| a.link == index && a.protocol <= 3;
        if self.lingers > 0 {
            let old = self.facts.addresses.iter().filter(|a| goes(a));
            self.leaving.extend(old.cloned());
        } else {
            self.facts.addresses.retain(|a| !goes(a));
        }
        for section in ["ipv4", "ipv6"] {
            profile
                .addresses(section)
                .for_each(|net| self.address(index, net.addr(), net.prefix_len(), false));
        }
        let lease = self
            .leases
            .get(iface)
            .filter(|_| profile.str("ipv4", "method") == Some("auto"));
        if let Some((ip, prefix)) = lease.copied() {
            self.address(index, ip, prefix, true);
        }
    }

    /// Reapply syncs table main and keeps its hands off protocols of others; other tables it only adds to (NetworkManager before 1.51).
    pub(super) fn routes(&mut self, index: u32, profile: &Profile) {
        let all_tables = self.facts.nm_at_least("1.51");
        let synced = |r: &Route| matches!(r.protocol, 3 | STATIC | DHCP) && (all_tables || r.table == route::MAIN);
        self.facts.routes.retain(|r| r.link != Some(index) || !synced(r));
        for section in ["ipv4", "ipv6"] {
            let sent = profile.int(section, "route-table").and_then(|t| t.try_into().ok());
            let table = sent.filter(|t| *t != 0).unwrap_or(route::MAIN);
            let entries = profile.dicts(section, "route-data").iter();
            for wish in entries.filter_map(|d| route::Route::from_nm(d, "", table)) {
                if wish.route_type.is_none() {
                    self.route(&wish, Some(index));
                }
            }
        }
    }

    fn route(&mut self, wish: &route::Route, link: Option<u32>) {
        let Some(destination) = wish.destination.as_deref().and_then(route::net) else {
            return;
        };
        let attributes = [
            ("mtu", wish.mtu),
            ("advmss", wish.advmss),
            ("cwnd", wish.cwnd),
            ("initcwnd", wish.initcwnd),
            ("initrwnd", wish.initrwnd),
            ("quickack", wish.quickack.map(u32::from)),
            // 1 << RTAX_MTU, 1 << RTAX_CWND
            (
                "lock",
                Some(u32::from(wish.lock_mtu == Some(true)) << 2 | u32::from(wish.cwnd.is_some()) << 7),
            ),
        ];
        let metrics: BTreeMap<&'static str, u32> = attributes.into_iter().filter_map(|(k, v)| Some((k, v?))).collect();
        let new = Route {
            destination,
            gateway: wish.gateway(),
            link,
            table: wish.table(),
            // what NetworkManager 1.42 gives the routes of an Ethernet that name none
            metric: Some(wish.metric_asked().unwrap_or(100)),
            protocol: STATIC,
            scope: 0,
            kind: match wish.route_type {
                None => 1,
                Some(RouteType::Blackhole) => 6,
                Some(RouteType::Unreachable) => 7,
                Some(RouteType::Prohibit) => 8,
            },
            source: wish.source,
            weight: wish.weight,
            metrics,
        };
        let place = |r: &Route| (r.destination, r.table, r.metric, r.link, r.gateway);
        // of IPv4 the kernel keeps those, too, that differ in nothing else
        let stays = |r: &Route| destination.addr().is_ipv4() && r.metrics != new.metrics;
        self.facts.routes.retain(|r| place(r) != place(&new) || stays(r));
        self.facts.routes.push(new);
    }

    /// What belongs to no device: NetworkManager keeps it in step with all profiles in force.
    pub(super) fn node_wide(&mut self) {
        let active = |d: &crate::facts::Device| Some(self.facts.profile(&d.active.as_ref()?.uuid)?.profile.clone());
        let active: Vec<Profile> = self.facts.devices.iter().filter_map(active).collect();
        self.rules(&active);
        // of routes that swallow packets the kernel names a link for IPv6 only
        let loopback = self.facts.link("lo").map(|l| l.index);
        self.facts.routes.retain(|r| r.kind == 1 || r.protocol != STATIC);
        for d in active
            .iter()
            .flat_map(|p| ["ipv4", "ipv6"].map(|s| p.dicts(s, "route-data")))
            .flatten()
        {
            if let Some(wish) = route::Route::from_nm(d, "lo", route::MAIN).filter(|r| r.route_type.is_some()) {
                self.route(&wish, loopback.filter(|_| wish.is_ipv6()));
            }
        }
        self.dns();
    }

    fn rules(&mut self, active: &[Profile]) {
        let dicts = active
            .iter()
            .flat_map(|p| ["ipv4", "ipv6"].map(|s| p.dicts(s, "routing-rules")))
            .flatten();
        let wanted: Vec<rule::Rule> = dicts.map(rule::Rule::from_nm).collect();
        self.facts.rules.retain(|r| r.protocol != STATIC);
        for r in wanted {
            let new = Rule {
                ipv6: r.is_ipv6(),
                from: r.ip_from.as_deref().and_then(route::net),
                to: r.ip_to.as_deref().and_then(route::net),
                priority: r.priority.and_then(|p| p.try_into().ok()).unwrap_or(0),
                table: if r.action.is_some() { 0 } else { r.table() },
                fwmark: r.fwmark,
                fwmask: r.fwmask,
                iif: r.iif.clone(),
                action: r.action.map_or(1, rule::Action::number),
                suppress_prefix_length: r.suppress_prefix_length,
                protocol: STATIC,
            };
            if !self.facts.rules.contains(&new) {
                self.facts.rules.push(new);
            }
        }
    }

    /// A global setting silences all profiles.
    fn dns(&mut self) {
        let dns = match &self.facts.dns.global {
            Some(global) => (global.servers.clone(), global.searches.clone()),
            None => {
                let active = |d: &'_ crate::facts::Device| self.facts.profile(&d.active.as_ref()?.uuid);
                let holders = self
                    .facts
                    .devices
                    .iter()
                    .filter_map(|d| Some((d.interface.as_str(), active(d)?)));
                let all = of_profiles(holders);
                (all.server.unwrap_or_default(), all.search.unwrap_or_default())
            }
        };
        (self.facts.dns.servers, self.facts.dns.searches) = dns;
    }
}
