//! `dns-resolver`: name servers, search domains, options; how they are kept in profiles and in NetworkManager's global setting.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::error::Invalid;
use crate::facts::{Facts, GlobalDns, SavedProfile};
use crate::profile::Profile;
use crate::scalar;

/// Section `dns-resolver`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsResolver {
    /// What resolves names now; only read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Dns>,
    /// What is configured; `{}` clears everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Dns>,
}

/// Servers, search domains and options; a list left out keeps its value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// Addresses; link-local ones as `fe80::1%eth0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Vec<String>>,
    /// Domains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<Vec<String>>,
    /// resolv.conf(5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<Vec<String>>,
}

/// Options of resolv.conf(5) that NetworkManager takes.
const OPTIONS: [&str; 15] = [
    "debug",
    "edns0",
    "inet6",
    "ip6-bytestring",
    "ip6-dotint",
    "no-aaaa",
    "no-check-names",
    "no-ip6-dotint",
    "no-reload",
    "no-tld-query",
    "rotate",
    "single-request",
    "single-request-reopen",
    "trust-ad",
    "use-vc",
];

impl Dns {
    /// Rules of the section. Paths start below `config`.
    pub fn validate(&self) -> Result<(), Invalid> {
        for (i, text) in self.server.iter().flatten().enumerate() {
            let at = format!("server[{i}]");
            let (address, scope) = text
                .split_once('%')
                .map_or((text.as_str(), None), |(a, s)| (a, Some(s)));
            match (address.parse::<IpAddr>(), scope) {
                (Err(_), _) => {
                    return Err(Invalid::new(at, format!("'{text}' is not an IP address")));
                }
                (Ok(IpAddr::V6(ip)), None | Some("")) if ip.is_unicast_link_local() => {
                    return Err(Invalid::new(
                        at,
                        format!("the link-local server {ip} needs its interface: {ip}%eth0"),
                    ));
                }
                (Ok(IpAddr::V6(ip)), Some(_)) if ip.is_unicast_link_local() => {}
                (Ok(ip), Some(_)) => {
                    return Err(Invalid::new(
                        at,
                        format!("{ip} is not link-local and takes no %interface"),
                    ));
                }
                _ => {}
            }
        }
        for (i, option) in self.options.iter().flatten().enumerate() {
            let ok = match option.split_once(':') {
                None => OPTIONS.contains(&option.as_str()),
                Some((key, value)) => matches!(key, "ndots" | "timeout" | "attempts") && value.parse::<u32>().is_ok(),
            };
            if !ok {
                return Err(Invalid::new(
                    format!("options[{i}]"),
                    format!("'{option}' is not an option of resolv.conf that NetworkManager takes"),
                ));
            }
        }
        Ok(())
    }

    /// Nothing at all: everything shall be cleared.
    pub fn is_purge(&self) -> bool {
        [&self.server, &self.search, &self.options]
            .into_iter()
            .flatten()
            .all(Vec::is_empty)
    }

    /// A wish over what is; `{}` clears.
    pub fn merge(desired: &Dns, current: &Dns) -> Dns {
        if *desired == Dns::default() {
            return Dns {
                server: Some(vec![]),
                search: Some(vec![]),
                options: Some(vec![]),
            };
        }
        let pick = |d: &Option<Vec<String>>, c: &Option<Vec<String>>| {
            Some(d.clone().or_else(|| c.clone()).unwrap_or_default())
        };
        Dns {
            server: pick(&desired.server, &current.server),
            search: pick(&desired.search, &current.search),
            options: pick(&desired.options, &current.options),
        }
    }

    /// Means the same: options have no order.
    pub fn is_like(&self, other: &Dns) -> bool {
        let options = |dns: &Dns| dns.options.iter().flatten().cloned().collect::<BTreeSet<_>>();
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        list(&self.server) == list(&other.server)
            && list(&self.search) == list(&other.search)
            && options(self) == options(other)
    }

    /// Interfaces of link-local servers.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.server.iter().flatten().filter_map(|s| scope(s))
    }

    /// The servers as runs of what one IP family of one profile can hold: of one family, and not of two link-local scopes.
    pub fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = vec![];
        for server in self.server.iter().flatten() {
            let (ipv6, scope) = (server.contains(':'), scope(server).map(str::to_owned));
            match runs.last_mut() {
                Some(run) if run.ipv6 == ipv6 && (scope.is_none() || run.scope.is_none() || run.scope == scope) => {
                    run.servers.push(plain(server));
                    run.scope = run.scope.take().or(scope);
                }
                _ => runs.push(Run {
                    ipv6,
                    scope,
                    servers: vec![plain(server)],
                }),
            }
        }
        runs
    }

    /// As NetworkManager's global setting.
    pub fn to_global(&self) -> GlobalDns {
        let list = |l: &Option<Vec<String>>| l.clone().unwrap_or_default();
        GlobalDns {
            servers: list(&self.server),
            searches: list(&self.search),
            options: list(&self.options),
        }
    }
}

/// Servers that follow one another and fit in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Their family.
    pub ipv6: bool,
    /// The interface of those that are link-local.
    pub scope: Option<String>,
    /// Addresses without their scope.
    pub servers: Vec<String>,
}

/// The interface of a link-local server.
pub fn scope(server: &str) -> Option<&str> {
    Some(server.split_once('%')?.1)
}

/// A server's address without its interface.
pub fn plain(server: &str) -> String {
    server.split('%').next().unwrap_or_default().to_owned()
}

/// `dns-priority` of the first servers; the next get 10 more. Before DHCP's (100 by default) and those of a VPN (50).
pub const PRIORITY: i32 = 40;

/// What NetworkManager takes for 0 (`NM_DNS_PRIORITY_DEFAULT_NORMAL`).
const PRIORITY_DEFAULT: i32 = 100;

/// What one IP family of a profile holds of DNS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Share {
    /// Addresses without a scope.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options.
    pub options: Vec<String>,
    /// `dns-priority`: the smaller goes first.
    pub priority: i32,
}

fn setting(ipv6: bool) -> &'static str {
    if ipv6 { "ipv6" } else { "ipv4" }
}

impl Share {
    /// Nothing but perhaps a priority.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.searches.is_empty() && self.options.is_empty()
    }

    /// Reads it from a profile.
    pub fn of_profile(ipv6: bool, profile: &Profile) -> Self {
        let s = setting(ipv6);
        let priority = profile.int(s, "dns-priority").and_then(|p| p.try_into().ok());
        Share {
            servers: profile.strs(s, "dns").to_vec(),
            searches: profile.strs(s, "dns-search").to_vec(),
            options: profile.strs(s, "dns-options").to_vec(),
            priority: priority.filter(|p| *p != 0).unwrap_or(PRIORITY_DEFAULT),
        }
    }

    /// Writes it into a profile, over what was there.
    pub fn to_profile(&self, ipv6: bool, profile: &mut Profile) {
        let Share {
            servers,
            searches,
            options,
            priority,
        } = self;
        let s = setting(ipv6);
        for (key, list) in [("dns", servers), ("dns-search", searches), ("dns-options", options)] {
            match list.is_empty() {
                true => profile.remove(s, key),
                false => profile.put(s, key, list.clone()),
            }
        }
        match self.is_empty() {
            true => profile.remove(s, "dns-priority"),
            false => profile.put(s, "dns-priority", *priority),
        }
    }

    /// Servers as the document has them: link-local ones with the interface.
    fn scoped(&self, interface: &str) -> impl Iterator<Item = String> {
        self.servers.iter().map(move |s| scalar::scoped(s, interface))
    }
}

/// DNS kept in these profiles, each with its interface, in the order in which NetworkManager uses it.
pub fn of_profiles<'a>(profiles: impl Iterator<Item = (&'a str, &'a SavedProfile)>) -> Dns {
    let both = |(name, saved): (&'a str, &'a SavedProfile)| {
        [false, true].map(|ipv6| (name, Share::of_profile(ipv6, &saved.profile)))
    };
    let mut shares: Vec<(&str, Share)> = profiles.flat_map(both).filter(|(_, s)| !s.is_empty()).collect();
    shares.sort_by_key(|(_, share)| share.priority);
    let unique = |list: Vec<String>| {
        let mut seen = BTreeSet::new();
        Some(list.into_iter().filter(|v| seen.insert(v.clone())).collect())
    };
    Dns {
        server: unique(shares.iter().flat_map(|(name, s)| s.scoped(name)).collect()),
        search: unique(shares.iter().flat_map(|(_, s)| s.searches.clone()).collect()),
        options: unique(shares.iter().flat_map(|(_, s)| s.options.clone()).collect()),
    }
}

/// Reads `dns-resolver`. Configured is the global setting where there is one, else what the active profiles hold.
pub fn from_facts(facts: &Facts) -> DnsResolver {
    let config = match &facts.dns.global {
        Some(GlobalDns {
            servers,
            searches,
            options,
        }) => Dns {
            server: Some(servers.clone()),
            search: Some(searches.clone()),
            options: Some(options.clone()),
        },
        None => {
            let active = |d: &'_ crate::facts::Device| d.active.as_ref().and_then(|a| facts.profile(&a.uuid));
            let holders = facts.devices.iter().filter(|d| !d.external());
            of_profiles(holders.filter_map(|d| Some((d.interface.as_str(), active(d)?))))
        }
    };
    let searches = facts.dns.global.as_ref().map_or(&facts.dns.searches, |g| &g.searches);
    let running = Dns {
        server: Some(facts.dns.asked().to_vec()),
        search: Some(searches.clone()),
        // NetworkManager tells servers and domains in force; options come from its configuration alone
        options: config.options.clone(),
    };
    DnsResolver {
        running: Some(running),
        config: Some(config),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dns(text: &str) -> Dns {
        serde_json::from_value(crate::yaml::read(text).unwrap()).unwrap()
    }

    #[test]
    fn faults_name_their_entry() {
        for (text, path) in [
            ("{server: [1.2.3]}", "server[0]"),
            ("{server: ['fe80::1']}", "server[0]"),
            ("{server: ['2001:db8::1%eth0']}", "server[0]"),
            ("{options: [rotate, fast]}", "options[1]"),
        ] {
            assert_eq!(dns(text).validate().unwrap_err().path, path, "{text}");
        }
        assert_eq!(
            dns("{server: ['fe80::1%eth0'], options: ['ndots:2']}").validate(),
            Ok(())
        );
    }

    #[test]
    fn lists_left_out_stay_and_empty_clears_all() {
        let now = dns("{server: [192.0.2.1], search: [a.example], options: []}");
        assert_eq!(Dns::merge(&dns("{search: [b.example]}"), &now).server, now.server);
        assert!(Dns::merge(&dns("{}"), &now).is_purge());
    }

    #[test]
    fn servers_fall_into_runs() {
        let runs = |text: &str| -> Vec<(bool, usize)> {
            let runs = dns(text).runs();
            runs.iter().map(|r| (r.ipv6, r.servers.len())).collect()
        };
        assert_eq!(runs("{server: [192.0.2.1, 192.0.2.2, '::1']}"), [(false, 2), (true, 1)]);
        assert_eq!(
            runs("{server: ['fe80::1%eth0', '::1', 'fe80::2%eth1']}"),
            [(true, 2), (true, 1)],
            "one profile has one scope"
        );
        assert_eq!(runs("{server: ['::1', 192.0.2.1, '::2']}").len(), 3);
        assert_eq!(
            dns("{server: ['fe80::1%eth0']}").runs()[0].scope.as_deref(),
            Some("eth0")
        );
    }

    #[test]
    fn a_global_setting_is_all_that_runs() {
        let mut facts = Facts::default();
        facts.dns.servers = vec!["192.0.2.1".to_owned()];
        facts.dns.searches = vec!["of-dhcp.example".to_owned()];
        let running = |facts: &Facts| from_facts(facts).running.unwrap();
        assert_eq!(running(&facts).server.unwrap(), ["192.0.2.1"]);
        facts.dns.global = Some(GlobalDns {
            servers: vec!["2001:db8::1".to_owned()],
            ..GlobalDns::default()
        });
        assert_eq!(running(&facts).server.unwrap(), ["2001:db8::1"]);
        assert_eq!(running(&facts).search, Some(vec![]));
    }

    #[test]
    fn the_order_of_families_is_kept_by_priority() {
        let mut profile = Profile::default();
        profile.put("connection", "interface-name", "eth0");
        let share = |servers: &[&str], priority| Share {
            servers: servers.iter().map(|s| (*s).to_owned()).collect(),
            priority,
            ..Share::default()
        };
        share(&["fe80::1", "2001:db8::1"], PRIORITY).to_profile(true, &mut profile);
        share(&["192.0.2.1"], PRIORITY + 10).to_profile(false, &mut profile);
        let saved = SavedProfile {
            profile,
            ..SavedProfile::default()
        };
        let read = of_profiles([("eth0", &saved)].into_iter());
        assert_eq!(read.server.unwrap(), ["fe80::1%eth0", "2001:db8::1", "192.0.2.1"]);
    }
}
