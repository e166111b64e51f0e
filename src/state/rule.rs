//! `route-rules`: policy routing; how a rule is kept in a profile.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::Invalid;
use crate::facts::{self, Facts};
use crate::profile::{Dict, Value};
use crate::scalar;

use super::iface::State;
use super::route::{MAIN, net};

/// Section `route-rules`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// The rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Vec<Rule>>,
}

/// One rule. In an entry with `state: absent` the keys given are a filter.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rule {
    /// `absent` removes every rule that matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// `ipv4` or `ipv6`; by the networks where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// CIDR of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_from: Option<String>,
    /// CIDR of the destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_to: Option<String>,
    /// -1 is automatic.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub priority: Option<i64>,
    /// 0 is main.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub route_table: Option<u32>,
    /// Mark of the packet.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        serialize_with = "hex",
        skip_serializing_if = "Option::is_none"
    )]
    pub fwmark: Option<u32>,
    /// Bits of the mark that count.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        serialize_with = "hex",
        skip_serializing_if = "Option::is_none"
    )]
    pub fwmask: Option<u32>,
    /// Instead of a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// Interface that the packet came in by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iif: Option<String>,
    /// Ignore routes with a prefix this short or shorter.
    #[serde(
        default,
        alias = "suppress_prefixlength",
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub suppress_prefix_length: Option<u32>,
}

/// IP family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// What happens to the packet (`FR_ACT_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Silently dropped.
    Blackhole,
    /// ICMP unreachable.
    Unreachable,
    /// ICMP prohibited.
    Prohibit,
}

impl Action {
    /// As the document has it.
    pub fn word(self) -> &'static str {
        match self {
            Action::Blackhole => "blackhole",
            Action::Unreachable => "unreachable",
            Action::Prohibit => "prohibit",
        }
    }

    /// `FR_ACT_BLACKHOLE` 6, `FR_ACT_UNREACHABLE` 7, `FR_ACT_PROHIBIT` 8.
    pub fn number(self) -> u8 {
        match self {
            Action::Blackhole => 6,
            Action::Unreachable => 7,
            Action::Prohibit => 8,
        }
    }

    fn from_number(n: u8) -> Option<Self> {
        [Action::Blackhole, Action::Unreachable, Action::Prohibit]
            .into_iter()
            .find(|a| a.number() == n)
    }
}

/// A network that selects something: not all of it, `0.0.0.0/0`, which the kernel does not keep.
fn selector(network: &Option<String>) -> Option<&str> {
    network.as_deref().filter(|n| !n.is_empty() && !n.ends_with("/0"))
}

fn hex<S: serde::Serializer>(v: &Option<u32>, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&format!("0x{:x}", v.unwrap_or(0)))
}

/// In a few words: `from 192.0.2.0/24 lookup 200`.
impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut words = vec![];
        for (key, value) in [("from", &self.ip_from), ("to", &self.ip_to), ("iif", &self.iif)] {
            words.extend(value.as_ref().filter(|v| !v.is_empty()).map(|v| format!("{key} {v}")));
        }
        words.extend(self.fwmark.map(|m| format!("fwmark 0x{m:x}")));
        words.extend(self.action.map(|a| a.word().to_owned()));
        words.extend(self.route_table.map(|_| format!("lookup {}", self.table())));
        words.extend(self.priority.filter(|p| *p >= 0).map(|p| format!("priority {p}")));
        f.write_str(&words.join(" "))
    }
}

impl Rule {
    /// Wanted gone.
    pub fn is_absent(&self) -> bool {
        self.state == Some(State::Absent)
    }

    /// Family, given or by the networks.
    pub fn is_ipv6(&self) -> bool {
        match self.family {
            Some(f) => f == Family::Ipv6,
            None => [&self.ip_from, &self.ip_to]
                .into_iter()
                .flatten()
                .any(|n| n.contains(':')),
        }
    }

    /// Table with 0 and none spelled out.
    pub fn table(&self) -> u32 {
        self.route_table.filter(|t| *t != 0).unwrap_or(MAIN)
    }

    /// Rules of one entry; brings networks to canonical form.
    pub fn settle(&mut self) -> Result<(), Invalid> {
        if !matches!(self.state, None | Some(State::Absent)) {
            return Err(Invalid::new("state", "a rule is there or has state: absent"));
        }
        let absent = self.is_absent();
        for (key, slot) in [("ip-from", &mut self.ip_from), ("ip-to", &mut self.ip_to)] {
            match slot.as_deref() {
                // in a filter it stands for rules without this key
                Some("") if !absent => *slot = None,
                Some("") | None => {}
                Some(text) => match net(text) {
                    Some(net) => *slot = Some(net.to_string()),
                    None => return Err(Invalid::new(key, format!("'{text}' is not a network in CIDR notation"))),
                },
            }
        }
        let networks: Vec<bool> = [&self.ip_from, &self.ip_to]
            .into_iter()
            .flatten()
            .filter(|n| !n.is_empty())
            .map(|n| n.contains(':'))
            .collect();
        if networks.iter().any(|v6| *v6 != self.is_ipv6()) {
            let reason = "ip-from, ip-to and family name different IP families";
            return Err(Invalid::new("family", reason));
        }
        if self.priority.is_some_and(|p| p < -1 || p > i64::from(u32::MAX)) {
            let reason = format!("{} is outside -1–{}", self.priority.unwrap_or_default(), u32::MAX);
            return Err(Invalid::new("priority", reason));
        }
        if absent {
            return Ok(());
        }
        if networks.is_empty() && self.family.is_none() {
            return Err(Invalid::new("", "a rule needs ip-from, ip-to or family"));
        }
        if self.fwmask.is_some() && self.fwmark.is_none() {
            return Err(Invalid::new("fwmask", "fwmask needs fwmark"));
        }
        Ok(())
    }

    /// As a filter (`state: absent`): every key that `self` gives has this value in `other`.
    pub fn matches(&self, other: &Rule) -> bool {
        let Rule {
            state: _,
            family: _,
            ip_from,
            ip_to,
            priority,
            route_table,
            fwmark,
            fwmask,
            action,
            iif,
            suppress_prefix_length,
        } = self;
        let network =
            |mine: &Option<String>, theirs: &Option<String>| mine.is_none() || selector(mine) == selector(theirs);
        let any_family = self.family.is_none() && [ip_from, ip_to].into_iter().flatten().all(String::is_empty);
        (any_family || self.is_ipv6() == other.is_ipv6())
            && network(ip_from, &other.ip_from)
            && network(ip_to, &other.ip_to)
            && priority.filter(|p| *p >= 0).is_none_or(|p| Some(p) == other.priority)
            && route_table.is_none_or(|_| other.action.is_none() && self.table() == other.table())
            && fwmark.is_none_or(|v| Some(v) == other.fwmark)
            && fwmask.is_none_or(|v| v == other.fwmask.unwrap_or(u32::MAX))
            && action.is_none_or(|a| Some(a) == other.action)
            && iif.as_ref().is_none_or(|i| Some(i) == other.iif.as_ref())
            && suppress_prefix_length.is_none_or(|v| Some(v) == other.suppress_prefix_length)
    }

    /// As a wish: `other` is what it asks for. A selector left out selects everything; an automatic priority is any.
    pub fn served_by(&self, other: &Rule) -> bool {
        let what = |r: &Rule| {
            (
                r.action,
                r.action.is_none().then(|| r.table()),
                r.suppress_prefix_length,
            )
        };
        let whom = |r: &Rule| {
            let mark = r.fwmark.map(|mark| (mark, r.fwmask.unwrap_or(u32::MAX)));
            let networks = [&r.ip_from, &r.ip_to].map(|n| selector(n).map(str::to_owned));
            (r.is_ipv6(), networks, mark, r.iif.clone())
        };
        what(self) == what(other)
            && whom(self) == whom(other)
            && self
                .priority
                .filter(|p| *p >= 0)
                .is_none_or(|p| Some(p) == other.priority)
    }

    /// Which packets, roughly: rules that could serve one wish have it in common.
    pub fn packets(&self) -> (bool, Option<&str>, Option<&str>) {
        (self.is_ipv6(), selector(&self.ip_from), selector(&self.ip_to))
    }

    /// Entry of `routing-rules`.
    pub fn to_nm(&self) -> Dict {
        let mut d = Dict::new();
        // AF_INET 2, AF_INET6 10
        d.insert("family".into(), Value::I32(if self.is_ipv6() { 10 } else { 2 }));
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                d.insert(key.to_owned(), value);
            }
        };
        put(
            "priority",
            self.priority.and_then(|p| u32::try_from(p).ok()).map(Value::U32),
        );
        for (key, length, text) in [("from", "from-len", &self.ip_from), ("to", "to-len", &self.ip_to)] {
            if let Some(net) = selector(text).and_then(net) {
                put(key, Some(net.addr().to_string().into()));
                put(length, Some(Value::Byte(net.prefix_len())));
            }
        }
        put("table", self.action.is_none().then(|| self.table().into()));
        put("fwmark", self.fwmark.map(Value::U32));
        put("fwmask", self.fwmark.map(|_| self.fwmask.unwrap_or(u32::MAX).into()));
        put("action", self.action.map(|a| Value::Byte(a.number())));
        put("iifname", self.iif.clone().map(Value::Str));
        put(
            "suppress-prefixlength",
            self.suppress_prefix_length
                .and_then(|v| i32::try_from(v).ok())
                .map(Value::I32),
        );
        d
    }

    /// Reads an entry of `routing-rules`.
    pub fn from_nm(d: &Dict) -> Self {
        let text = |key: &str| match d.get(key) {
            Some(Value::Str(s)) => Some(s.clone()),
            _ => None,
        };
        let number = |key: &str| match d.get(key) {
            Some(Value::U32(v)) => Some(*v),
            Some(Value::I32(v)) => u32::try_from(*v).ok(),
            Some(Value::Byte(v)) => Some((*v).into()),
            _ => None,
        };
        let network = |key: &str, length: &str| -> Option<String> {
            let address: std::net::IpAddr = text(key)?.parse().ok()?;
            Some(
                IpNet::new(address, number(length)?.try_into().ok()?)
                    .ok()?
                    .trunc()
                    .to_string(),
            )
        };
        Rule {
            state: None,
            family: Some(if number("family") == Some(10) {
                Family::Ipv6
            } else {
                Family::Ipv4
            }),
            ip_from: network("from", "from-len"),
            ip_to: network("to", "to-len"),
            priority: number("priority").map(i64::from),
            route_table: number("table"),
            fwmark: number("fwmark"),
            fwmask: number("fwmask").filter(|_| number("fwmark").is_some()),
            action: number("action").and_then(|n| Action::from_number(n.try_into().ok()?)),
            iif: text("iifname"),
            suppress_prefix_length: number("suppress-prefixlength"),
        }
    }

    fn from_facts(r: &facts::Rule) -> Self {
        Rule {
            state: None,
            family: Some(if r.ipv6 { Family::Ipv6 } else { Family::Ipv4 }),
            ip_from: r.from.map(|n| n.to_string()),
            ip_to: r.to.map(|n| n.to_string()),
            priority: Some(r.priority.into()),
            route_table: Some(r.table),
            fwmark: r.fwmark,
            fwmask: r.fwmask,
            action: Action::from_number(r.action),
            iif: r.iif.clone(),
            suppress_prefix_length: r.suppress_prefix_length,
        }
    }
}

/// Reads an entry of `routing-rules`; None where it says more than a rule of the document can.
pub fn understood(d: &Dict) -> Option<Rule> {
    let rule = Rule::from_nm(d);
    let said = rule.to_nm();
    let nothing = |v: &Value| matches!(v, Value::U32(0) | Value::Byte(0) | Value::Bool(false)) || *v == Value::I32(-1);
    // FR_ACT_TO_TBL 1 is what is meant without an action
    let plain =
        |(key, v): (&String, &Value)| said.contains_key(key) || nothing(v) || (key == "action" && *v == Value::Byte(1));
    d.iter().all(plain).then_some(rule)
}

/// Rules that NetworkManager made: it marks them as static (`RTPROT_STATIC` 4). Of others it keeps its hands.
pub fn of_network_manager(facts: &Facts) -> Vec<Rule> {
    facts
        .rules
        .iter()
        .filter(|r| r.protocol == 4)
        .map(Rule::from_facts)
        .collect()
}

/// Reads `route-rules`: those of persons and NetworkManager (boot 3, static 4, unspecified 0), and of daemons known to routes.
pub fn from_facts(facts: &Facts) -> Rules {
    let mine =
        |r: &&facts::Rule| matches!(r.protocol, 0 | 3 | 4 | 9 | 16 | 17 | 18 | 42) && matches!(r.action, 1 | 6 | 7 | 8);
    Rules {
        config: Some(facts.rules.iter().filter(mine).map(Rule::from_facts).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        serde_json::from_value(crate::yaml::read(text).unwrap()).unwrap()
    }

    #[test]
    fn survives_the_profile() {
        let mut full = rule(
            "{family: ipv4, ip-from: 192.0.2.0/24, ip-to: 198.51.100.0/24, priority: 500, route-table: 200, fwmark: 0x10, fwmask: 0xff, iif: eth1, suppress-prefix-length: 0}",
        );
        full.settle().unwrap();
        assert_eq!(Rule::from_nm(&full.to_nm()), full);
    }

    #[test]
    fn absent_is_a_filter() {
        let mut have = rule("{ip-from: 192.0.2.0/24, priority: 500, route-table: 200}");
        have.settle().unwrap();
        for (filter, hit) in [
            ("{state: absent}", true),
            ("{state: absent, family: ipv4}", true),
            ("{state: absent, family: ipv6}", false),
            ("{state: absent, ip-from: 192.0.2.0/24}", true),
            ("{state: absent, ip-to: ''}", true),
            ("{state: absent, ip-from: ''}", false),
            ("{state: absent, priority: -1}", true),
            ("{state: absent, priority: 501}", false),
            ("{state: absent, route-table: 200}", true),
            ("{state: absent, action: blackhole}", false),
            ("{state: absent, iif: eth1}", false),
        ] {
            let mut filter_ = rule(filter);
            filter_.settle().unwrap();
            assert_eq!(filter_.matches(&have), hit, "{filter}");
        }
    }

    #[test]
    fn a_selector_left_out_selects_everything() {
        let wish = rule("{ip-from: 192.0.2.0/24, route-table: 200}");
        for (have, serves) in [
            ("{ip-from: 192.0.2.0/24, route-table: 200, priority: 7}", true),
            ("{ip-from: 192.0.2.0/24, ip-to: 0.0.0.0/0, route-table: 200}", true),
            ("{ip-from: 192.0.2.0/24, ip-to: 10.0.0.0/8, route-table: 200}", false),
            ("{ip-from: 192.0.2.0/24, route-table: 200, iif: eth1}", false),
            ("{ip-from: 192.0.2.0/24, route-table: 200, fwmark: 1}", false),
        ] {
            assert_eq!(wish.served_by(&rule(have)), serves, "{have}");
        }
    }

    #[test]
    fn a_rule_that_says_more_is_not_understood() {
        let mut entry = rule("{family: ipv4, priority: 5, route-table: 200}").to_nm();
        assert!(understood(&entry).is_some());
        entry.insert("oifname".into(), "eth1".into());
        assert!(understood(&entry).is_none());
    }

    #[test]
    fn faults() {
        assert!(rule("{priority: 5}").settle().is_err());
        assert_eq!(
            rule("{ip-from: 192.0.2.0/24, ip-to: '::/0'}")
                .settle()
                .unwrap_err()
                .path,
            "family"
        );
        assert_eq!(rule("{family: ipv4, fwmask: 1}").settle().unwrap_err().path, "fwmask");
    }
}
