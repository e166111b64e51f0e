//! `dns-resolver`: name servers, search domains, options.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::error::Invalid;
use crate::facts::{Facts, GlobalDns, SavedProfile};

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
                (Ok(IpAddr::V6(ip)), None) if ip.is_unicast_link_local() => {
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

    /// The interface of a link-local server.
    pub fn scoped_to(&self) -> Option<&str> {
        self.server.iter().flatten().find_map(|s| Some(s.split_once('%')?.1))
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

/// DNS kept in one profile: servers (both families), search domains, options.
pub fn of_profile(saved: &SavedProfile) -> Dns {
    let p = &saved.profile;
    let both = |key: &str| -> Vec<String> { ["ipv4", "ipv6"].iter().flat_map(|s| p.strs(s, key)).cloned().collect() };
    let mut server = both("dns");
    if let Some(name) = saved.interface() {
        for text in &mut server {
            if matches!(text.parse::<IpAddr>(), Ok(IpAddr::V6(ip)) if ip.is_unicast_link_local()) {
                *text = format!("{text}%{name}");
            }
        }
    }
    let unique = |mut list: Vec<String>| {
        let mut seen = std::collections::BTreeSet::new();
        list.retain(|v| seen.insert(v.clone()));
        list
    };
    Dns {
        server: Some(server),
        search: Some(unique(both("dns-search"))),
        options: Some(unique(both("dns-options"))),
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
            let mut all = Dns {
                server: Some(vec![]),
                search: Some(vec![]),
                options: Some(vec![]),
            };
            for device in &facts.devices {
                if let Some(saved) = facts.active_profile(&device.interface) {
                    let Dns {
                        server,
                        search,
                        options,
                    } = of_profile(saved);
                    for (to, from) in [
                        (&mut all.server, server),
                        (&mut all.search, search),
                        (&mut all.options, options),
                    ] {
                        to.get_or_insert_default().extend(from.unwrap_or_default());
                    }
                }
            }
            all
        }
    };
    let running = Dns {
        server: Some(facts.dns.servers.clone()),
        search: Some(facts.dns.searches.clone()),
        options: None,
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
}
