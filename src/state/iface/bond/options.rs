//! Mode and options of a bond: one table of what there is, what it may be and where it works. Names are the kernel's (bonding.rst).

use std::collections::BTreeMap;
use std::fmt;

use netlink_packet_route::link::InfoBond;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::error::Invalid;
use crate::facts::{Facts, Link};
use crate::profile::{self, Profile};
use crate::scalar;

/// How a bond spreads its traffic; the numbers are the kernel's `BOND_MODE_*`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// 0: packet by packet.
    #[default]
    BalanceRr,
    /// 1: one port works, the others wait.
    ActiveBackup,
    /// 2: by a hash.
    BalanceXor,
    /// 3: all on all.
    Broadcast,
    /// 4: LACP.
    Lacp,
    /// 5: outgoing by load.
    BalanceTlb,
    /// 6: both ways by load.
    BalanceAlb,
}

const MODES: [(Mode, &str); 7] = [
    (Mode::BalanceRr, "balance-rr"),
    (Mode::ActiveBackup, "active-backup"),
    (Mode::BalanceXor, "balance-xor"),
    (Mode::Broadcast, "broadcast"),
    (Mode::Lacp, "802.3ad"),
    (Mode::BalanceTlb, "balance-tlb"),
    (Mode::BalanceAlb, "balance-alb"),
];

impl Mode {
    /// As kernel and NetworkManager call it.
    pub fn word(self) -> &'static str {
        MODES.iter().find(|(m, _)| *m == self).map_or("", |(_, word)| word)
    }

    fn parse(text: &str) -> Option<Self> {
        let number = || text.parse::<usize>().ok().and_then(|n| MODES.get(n));
        let found = MODES.iter().find(|(_, word)| *word == text).or_else(number);
        found.map(|(mode, _)| *mode).or((text == "lacp").then_some(Mode::Lacp))
    }

    fn bit(self) -> u8 {
        1 << MODES.iter().position(|(m, _)| *m == self).unwrap_or(0)
    }
}

impl Serialize for Mode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(de)?;
        text_of(&value).and_then(|t| Mode::parse(&t)).ok_or_else(|| {
            let words: Vec<&str> = MODES.iter().map(|(_, word)| *word).collect();
            de::Error::custom(format!("{value} is none of {}", words.join(", ")))
        })
    }
}

/// What an option may be.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    /// From, to.
    Number(u32, u32),
    /// Words in the order of the kernel's numbers.
    Words(&'static [&'static str]),
    /// The same, but NetworkManager wants the number.
    Numbered(&'static [&'static str]),
    Switch,
    Mac,
    /// IPv4 addresses, in the document one text with commas.
    Targets4,
    /// IPv6 addresses, in the document a list.
    Targets6,
    /// Name of a port.
    Port,
}

/// One option.
#[derive(Debug)]
struct Spec {
    name: &'static str,
    shape: Shape,
    /// What holds where nothing is said: NetworkManager's default, which is the kernel's but for `miimon`.
    default: &'static str,
    /// Modes in which it works, a bit each (`unsuppmodes` in the kernel's bond_options.c, the other way round).
    modes: u8,
    /// Elsewhere it is refused; otherwise it is left out with a warning, as NetworkManager strips it.
    strict: bool,
    /// NetworkManager that knows it.
    since: Option<&'static str>,
}

const ALL: u8 = 0x7f;
const RR: u8 = 1;
const XOR: u8 = 1 << 2;
const LACP: u8 = 1 << 4;
const TLB: u8 = 1 << 5;
const ALB: u8 = 1 << 6;
const ONE_ACTIVE: u8 = 1 << 1 | TLB | ALB;
const ARP: u8 = ALL & !(LACP | TLB | ALB);
const MAX: u32 = i32::MAX as u32;

const fn spec(name: &'static str, shape: Shape, default: &'static str, modes: u8) -> Spec {
    Spec {
        name,
        shape,
        default,
        modes,
        strict: false,
        since: None,
    }
}

const fn strict(spec: Spec) -> Spec {
    Spec { strict: true, ..spec }
}

const fn since(version: &'static str, spec: Spec) -> Spec {
    Spec {
        since: Some(version),
        ..spec
    }
}

use Shape::{Mac, Number, Numbered, Port, Switch, Targets4, Targets6, Words};

#[rustfmt::skip]
const SPECS: &[Spec] = &[
    spec("ad_actor_sys_prio", Number(1, 65535), "65535", LACP),
    spec("ad_actor_system", Mac, "00:00:00:00:00:00", LACP),
    spec("ad_select", Words(&["stable", "bandwidth", "count"]), "stable", ALL),
    spec("ad_user_port_key", Number(0, 1023), "0", LACP),
    spec("all_slaves_active", Numbered(&["dropped", "delivered"]), "dropped", ALL),
    spec("arp_all_targets", Words(&["any", "all"]), "any", ALL),
    strict(spec("arp_interval", Number(0, MAX), "0", ARP)),
    strict(spec("arp_ip_target", Targets4, "", ARP)),
    since("1.44", spec("arp_missed_max", Number(1, 255), "2", ARP)),
    strict(spec("arp_validate", Words(&["none", "active", "backup", "all", "filter", "filter_active", "filter_backup"]), "none", ARP)),
    strict(spec("balance_slb", Switch, "false", XOR)),
    spec("downdelay", Number(0, MAX), "0", ALL),
    spec("fail_over_mac", Words(&["none", "active", "follow"]), "none", ALL),
    since("1.44", strict(spec("lacp_active", Switch, "true", LACP))),
    strict(spec("lacp_rate", Words(&["slow", "fast"]), "slow", LACP)),
    spec("lp_interval", Number(1, MAX), "1", ALL),
    spec("miimon", Number(0, MAX), "100", ALL),
    spec("min_links", Number(0, MAX), "0", ALL),
    since("1.44", strict(spec("ns_ip6_target", Targets6, "", ARP))),
    spec("num_grat_arp", Number(0, 255), "1", ALL),
    spec("num_unsol_na", Number(0, 255), "1", ALL),
    spec("packets_per_slave", Number(0, 65535), "1", RR),
    strict(spec("primary", Port, "", ONE_ACTIVE)),
    spec("primary_reselect", Words(&["always", "better", "failure"]), "always", ONE_ACTIVE),
    spec("resend_igmp", Number(0, 255), "1", ALL),
    spec("tlb_dynamic_lb", Switch, "true", TLB | ALB),
    spec("updelay", Number(0, MAX), "0", ALL),
    spec("use_carrier", Switch, "true", ALL),
    spec("xmit_hash_policy", Words(&["layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4", "vlan+srcmac"]), "layer2", ALL),
];

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        Value::Bool(b) => Some(u8::from(*b).to_string()),
        Value::Array(list) => {
            let items: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
            items.map(|i| i.join(","))
        }
        _ => None,
    }
}

fn switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" | "y" => Some(true),
        "0" | "false" | "no" | "off" | "n" => Some(false),
        _ => None,
    }
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn targets<T: std::str::FromStr + ToString>(text: &str) -> Option<String> {
    let parts = text.split([',', ' ']).map(str::trim).filter(|t| !t.is_empty());
    let parsed: Option<Vec<String>> = parts.map(|t| Some(t.parse::<T>().ok()?.to_string())).collect();
    parsed.map(|p| p.join(","))
}

impl Spec {
    fn of(name: &str) -> Option<&'static Spec> {
        // NetworkManager writes its own option with a dash
        let name = if name == "balance-slb" { "balance_slb" } else { name };
        SPECS.iter().find(|s| s.name == name)
    }

    fn works_in(&self, mode: Mode) -> bool {
        self.modes & mode.bit() != 0
    }

    /// From what a person or NetworkManager wrote to one form.
    fn parse(&self, text: &str) -> Result<String, String> {
        let (read, expected) = match self.shape {
            Number(low, high) => {
                let found = number(text).filter(|n| (low..=high).contains(n));
                (found.map(|n| n.to_string()), format!("a number of {low}–{high}"))
            }
            Words(words) | Numbered(words) => {
                let by_number = || words.get(number(text)? as usize);
                let found = words.iter().find(|w| **w == text).or_else(by_number);
                (found.map(ToString::to_string), format!("one of {}", words.join(", ")))
            }
            Switch => (switch(text).map(|b| b.to_string()), "a boolean".to_owned()),
            Mac => (scalar::mac(text), "a MAC address".to_owned()),
            Targets4 => (
                targets::<std::net::Ipv4Addr>(text),
                "a list of IPv4 addresses".to_owned(),
            ),
            Targets6 => (
                targets::<std::net::Ipv6Addr>(text),
                "a list of IPv6 addresses".to_owned(),
            ),
            Port => {
                let good = text.is_empty() || scalar::bad_interface_name(text).is_none();
                (good.then(|| text.to_owned()), "the name of a port".to_owned())
            }
        };
        read.ok_or_else(|| format!("'{text}' is not {expected}"))
    }

    fn to_json(&self, value: &str) -> Value {
        match self.shape {
            Number(..) => number(value).map_or(Value::Null, Value::from),
            Switch => Value::Bool(value == "true"),
            Targets6 => list(value).into(),
            _ => value.into(),
        }
    }

    /// As it stands in `bond.options`.
    fn to_nm(&self, value: &str) -> String {
        match self.shape {
            Switch => u8::from(value == "true").to_string(),
            Numbered(words) => words.iter().position(|w| *w == value).unwrap_or(0).to_string(),
            _ => value.to_owned(),
        }
    }

    fn nm_key(&self) -> &'static str {
        match self.name {
            "balance_slb" => "balance-slb",
            name => name,
        }
    }
}

fn list(value: &str) -> Vec<&str> {
    value.split(',').filter(|t| !t.is_empty()).collect()
}

/// `link-aggregation.options`: those that are given, each in one form.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options(BTreeMap<&'static str, String>);

impl FromIterator<(&'static str, &'static str)> for Options {
    fn from_iter<I: IntoIterator<Item = (&'static str, &'static str)>>(iter: I) -> Self {
        Options(iter.into_iter().map(|(k, v)| (k, v.to_owned())).collect())
    }
}

impl Options {
    /// `{}`.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// An option's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// An option's value, to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut String> {
        self.0.get_mut(name)
    }

    fn number(&self, name: &str) -> Option<u32> {
        self.get(name).and_then(number)
    }

    fn is_on(&self, name: &str) -> bool {
        self.number(name).is_some_and(|n| n > 0)
    }

    fn each(&self) -> impl Iterator<Item = (&'static Spec, &str)> {
        let specified = self.0.iter().filter_map(|(name, value)| Some((Spec::of(name)?, value)));
        specified.map(|(spec, value)| (spec, value.as_str()))
    }

    /// Options that have to go when these come: a bond watches its links by MII or by ARP, not by both, and two names stand for one number.
    fn displaced(&self) -> Vec<&'static str> {
        let mut gone: Vec<&'static str> = vec![];
        if self.is_on("arp_interval") {
            gone.extend(["miimon", "updelay", "downdelay"]);
        } else if self.is_on("miimon") || self.number("arp_interval") == Some(0) {
            gone.extend(["arp_interval", "arp_ip_target", "ns_ip6_target", "arp_validate"]);
        }
        match (self.get("num_grat_arp"), self.get("num_unsol_na")) {
            (Some(_), None) => gone.push("num_unsol_na"),
            (None, Some(_)) => gone.push("num_grat_arp"),
            _ => {}
        }
        gone.retain(|name| !self.0.contains_key(name));
        gone
    }

    /// These options with a wish laid over them.
    pub fn overlaid(mut self, wish: &Options) -> Options {
        wish.displaced().iter().for_each(|name| drop(self.0.remove(name)));
        self.0.extend(wish.0.iter().map(|(k, v)| (*k, v.clone())));
        self
    }

    /// What a new profile has to say to keep the bond as it is: what is no default, and what was asked for.
    pub fn worth_writing(mut self, mode: Mode, asked: Option<&Options>) -> Options {
        self.0.retain(|name, value| {
            let asked = asked.is_some_and(|a| a.0.contains_key(name));
            asked || Spec::of(name).is_some_and(|s| s.works_in(mode) && s.default != value)
        });
        self
    }

    /// Leaves out what means nothing in this mode; names what was more than a default.
    pub fn drop_useless(&mut self, mode: Mode) -> Vec<&'static str> {
        let useless: Vec<(&'static str, bool)> = self
            .each()
            .filter(|(spec, _)| !spec.works_in(mode))
            .map(|(spec, value)| (spec.name, value != spec.default))
            .collect();
        useless.iter().for_each(|(name, _)| drop(self.0.remove(name)));
        useless
            .iter()
            .filter(|(_, told)| *told)
            .map(|(name, _)| *name)
            .collect()
    }

    /// Refuses what this NetworkManager does not know.
    pub fn refuse_unsupported(&self, facts: &Facts) -> Result<(), Invalid> {
        for (spec, value) in self.each() {
            if let Some(version) = spec.since.filter(|_| value != spec.default) {
                let path = format!("link-aggregation.options.{}", spec.name);
                facts.needs_nm(version, &path, &format!("the bond option {}", spec.name))?;
            }
        }
        Ok(())
    }
}

impl Serialize for Options {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.each().map(|(spec, value)| (spec.name, spec.to_json(value))))
    }
}

impl<'de> Deserialize<'de> for Options {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Options;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a map of bond options")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Options, A::Error> {
                let mut options = Options::default();
                while let Some(key) = map.next_key::<String>()? {
                    let Some(spec) = Spec::of(&key) else {
                        return Err(de::Error::custom(format!("unknown bond option '{key}'")));
                    };
                    if let Some(value) = map.next_value_seed(Seed(spec))? {
                        options.0.insert(spec.name, value);
                    }
                }
                Ok(options)
            }
        }
        de.deserialize_map(Reader)
    }
}

/// Reads the value of one option, so that an error tells which.
struct Seed(&'static Spec);

impl<'de> DeserializeSeed<'de> for Seed {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, de: D) -> Result<Self::Value, D::Error> {
        let value = Value::deserialize(de)?;
        if value.is_null() {
            return Ok(None);
        }
        let text = text_of(&value).ok_or_else(|| de::Error::custom(format!("{value} is no bond option's value")))?;
        self.0.parse(&text).map(Some).map_err(de::Error::custom)
    }
}

/// Faults of options; `whole` is them laid over what is. Paths start at the option.
pub fn validate(mode: Mode, written: &Options, whole: &Options, ports: Option<&[String]>) -> Result<(), Invalid> {
    for (spec, value) in written.each().filter(|(s, _)| s.strict && !s.works_in(mode)) {
        // LACP's own are refused even as they are by default
        if value != spec.default || spec.modes == LACP {
            let modes: Vec<&str> = MODES
                .iter()
                .filter(|(m, _)| spec.works_in(*m))
                .map(|(_, w)| *w)
                .collect();
            let why = format!("means nothing in mode {}, only in {}", mode.word(), modes.join(", "));
            return Err(Invalid::new(spec.name, why));
        }
    }
    validate_watch(written, whole)?;
    if written
        .get("num_grat_arp")
        .zip(written.get("num_unsol_na"))
        .is_some_and(|(a, b)| a != b)
    {
        return Err(Invalid::new("num_unsol_na", "it is the same number as num_grat_arp"));
    }
    if let Some(mac) = written.get("ad_actor_system") {
        // the lowest bit of the first byte marks a group address
        if u8::from_str_radix(&mac[..2], 16).is_ok_and(|b| b & 1 == 1) {
            return Err(Invalid::new("ad_actor_system", format!("{mac} is a multicast address")));
        }
    }
    if written.get("balance_slb") == Some("true") && whole.get("xmit_hash_policy") != Some("vlan+srcmac") {
        return Err(Invalid::new("balance_slb", "needs xmit_hash_policy vlan+srcmac"));
    }
    match (written.get("primary"), ports) {
        (Some(primary), Some(ports)) if !primary.is_empty() && !ports.iter().any(|p| p == primary) => {
            Err(Invalid::new("primary", format!("'{primary}' is not among the ports")))
        }
        _ => Ok(()),
    }
}

/// Rules of watching the links by MII or by ARP.
fn validate_watch(written: &Options, whole: &Options) -> Result<(), Invalid> {
    let given = |name: &str| whole.get(name).is_some_and(|v| !v.is_empty());
    let arp = whole.is_on("arp_interval");
    if written.is_on("miimon") && written.is_on("arp_interval") {
        return Err(Invalid::new(
            "arp_interval",
            "a bond watches its links by miimon or by ARP, not by both",
        ));
    }
    if arp && !given("arp_ip_target") && !given("ns_ip6_target") {
        return Err(Invalid::new("arp_interval", "needs arp_ip_target or ns_ip6_target"));
    }
    for name in ["arp_ip_target", "ns_ip6_target"] {
        if !arp && given(name) {
            return Err(Invalid::new(name, "needs arp_interval above 0"));
        }
    }
    for name in ["updelay", "downdelay"] {
        if written.is_on(name) && (arp || whole.number("miimon") == Some(0)) {
            return Err(Invalid::new(name, "needs miimon above 0"));
        }
    }
    Ok(())
}

/// What the kernel takes only while the bond is down or has no ports (`BOND_OPTFLAG_IFDOWN` and `_NOSLAVES` in bond_options.c).
const AT_REST: [&str; 8] = [
    "ad_actor_sys_prio",
    "ad_actor_system",
    "ad_select",
    "ad_user_port_key",
    "fail_over_mac",
    "lacp_active",
    "lacp_rate",
    "tlb_dynamic_lb",
];

/// A change that a live bond does not take. NetworkManager would bring the same link up again for it, and then sets no defaults.
pub fn need_another_link(wish: &Options, now: &Options) -> bool {
    let mut specs = AT_REST.iter().filter_map(|name| Spec::of(name));
    specs.any(|spec| {
        let has = now.get(spec.name).unwrap_or(spec.default);
        match wish.is_empty() {
            true => has != spec.default,
            false => wish.get(spec.name).is_some_and(|asked| asked != has),
        }
    })
}

/// Writes `bond.options` over what the profile has. Another mode forgets what it had, and so does `{}`.
pub fn to_profile(mode: Option<Mode>, wish: Option<&Options>, profile: &mut Profile) {
    let mut options = match profile.get("bond", "options") {
        Some(profile::Value::StrMap(map)) => map.clone(),
        _ => BTreeMap::new(),
    };
    if let Some(mode) = mode {
        if options.get("mode").and_then(|m| Mode::parse(m)) != Some(mode) {
            options.clear();
        }
        options.insert("mode".to_owned(), mode.word().to_owned());
    }
    if let Some(wish) = wish {
        if wish.is_empty() {
            options.retain(|name, _| name == "mode");
        }
        for name in wish.displaced() {
            options.remove(name);
        }
        for (spec, value) in wish.each() {
            let (key, text) = (spec.nm_key(), spec.to_nm(value));
            // a default is not written: an older NetworkManager may not know the name, and the kernel refuses some of its own
            let needless = value.is_empty() || (value == spec.default && spec.name != "miimon");
            match options.get(key) == Some(&text) {
                true => {}
                false if needless => drop(options.remove(key)),
                false => drop(options.insert(key.to_owned(), text)),
            }
        }
    }
    profile.put("bond", "options", options);
}

/// Mode and options that the kernel tells, and the one that only NetworkManager knows.
pub fn from_facts(info: &[InfoBond], link: &Link, facts: &Facts) -> (Option<Mode>, Options) {
    let mode = info.iter().find_map(|i| match i {
        InfoBond::Mode(mode) => Mode::parse(&mode.to_string()),
        _ => None,
    });
    let mut options = Options::default();
    for item in info {
        let found = from_kernel(item, facts);
        let useful = |(name, _): &(&'static str, String)| {
            Spec::of(name).is_some_and(|s| mode.is_none_or(|mode| s.works_in(mode)))
        };
        options.0.extend(found.into_iter().filter(useful));
    }
    if mode == Some(Mode::BalanceXor)
        && let Some(profile::Value::StrMap(map)) = facts.own_profile(&link.name).and_then(|p| p.get("bond", "options"))
    {
        let on = map.get("balance-slb").is_some_and(|v| v == "1");
        options.0.insert("balance_slb", on.to_string());
    }
    (mode, options)
}

fn joined<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

fn from_kernel(item: &InfoBond, facts: &Facts) -> Vec<(&'static str, String)> {
    let one = match item {
        InfoBond::MiiMon(v) => ("miimon", v.to_string()),
        InfoBond::UpDelay(v) => ("updelay", v.to_string()),
        InfoBond::DownDelay(v) => ("downdelay", v.to_string()),
        InfoBond::UseCarrier(v) => ("use_carrier", v.to_string()),
        InfoBond::ArpInterval(v) => ("arp_interval", v.to_string()),
        InfoBond::ArpIpTarget(v) => ("arp_ip_target", joined(v)),
        InfoBond::ArpValidate(v) => ("arp_validate", v.to_string()),
        InfoBond::ArpAllTargets(v) => ("arp_all_targets", v.to_string()),
        InfoBond::Primary(index) => match facts.link_by_index(*index) {
            Some(port) => ("primary", port.name.clone()),
            None => return vec![],
        },
        InfoBond::PrimaryReselect(v) => ("primary_reselect", v.to_string()),
        InfoBond::FailOverMac(v) => ("fail_over_mac", v.to_string()),
        InfoBond::XmitHashPolicy(v) => ("xmit_hash_policy", v.to_string()),
        InfoBond::ResendIgmp(v) => ("resend_igmp", v.to_string()),
        InfoBond::NumPeerNotif(v) => {
            return vec![("num_grat_arp", v.to_string()), ("num_unsol_na", v.to_string())];
        }
        InfoBond::AllPortsActive(v) => ("all_slaves_active", v.to_string()),
        InfoBond::MinLinks(v) => ("min_links", v.to_string()),
        InfoBond::LpInterval(v) => ("lp_interval", v.to_string()),
        InfoBond::PacketsPerPort(v) => ("packets_per_slave", v.to_string()),
        InfoBond::AdLacpRate(v) => ("lacp_rate", v.to_string()),
        InfoBond::AdSelect(v) => ("ad_select", v.to_string()),
        InfoBond::AdActorSysPrio(v) => ("ad_actor_sys_prio", v.to_string()),
        InfoBond::AdUserPortKey(v) => ("ad_user_port_key", v.to_string()),
        InfoBond::AdActorSystem(v) => ("ad_actor_system", scalar::mac_text(v)),
        InfoBond::TlbDynamicLb(v) => ("tlb_dynamic_lb", v.to_string()),
        InfoBond::AdLacpActive(v) => ("lacp_active", v.to_string()),
        InfoBond::MissedMax(v) => ("arp_missed_max", v.to_string()),
        InfoBond::NsIp6Target(v) => ("ns_ip6_target", joined(v)),
        _ => return vec![],
    };
    vec![one]
}

/// What the kernel would tell of a bond with this profile.
pub fn to_link(profile: &Profile, index: &dyn Fn(&str) -> Option<u32>) -> Vec<InfoBond> {
    let none = BTreeMap::new();
    let options = match profile.get("bond", "options") {
        Some(profile::Value::StrMap(map)) => map,
        _ => &none,
    };
    let written = |name: &str| options.get(Spec::of(name)?.nm_key()).cloned();
    let by_arp = written("arp_interval").is_some_and(|v| v != "0");
    let twins = written("num_grat_arp").or_else(|| written("num_unsol_na"));
    let mode = options.get("mode").map_or("balance-rr", String::as_str);
    let mut info: Vec<InfoBond> = mode.parse().map(InfoBond::Mode).into_iter().collect();
    for spec in SPECS {
        let value = match spec.name {
            // NetworkManager's default, given up for ARP
            "miimon" if by_arp => Some("0".to_owned()),
            "num_grat_arp" => twins.clone(),
            name => written(name),
        };
        let value = value.and_then(|v| spec.parse(&v).ok());
        info.extend(to_kernel(spec.name, value.as_deref().unwrap_or(spec.default), index));
    }
    info
}

fn to_kernel(name: &str, value: &str, index: &dyn Fn(&str) -> Option<u32>) -> Option<InfoBond> {
    let on = matches!(value, "true" | "on");
    let number = || number(value);
    let small = || number().and_then(|n| u8::try_from(n).ok());
    let medium = || number().and_then(|n| u16::try_from(n).ok());
    Some(match name {
        "miimon" => InfoBond::MiiMon(number()?),
        "updelay" => InfoBond::UpDelay(number()?),
        "downdelay" => InfoBond::DownDelay(number()?),
        "use_carrier" => InfoBond::UseCarrier(on),
        "arp_interval" => InfoBond::ArpInterval(number()?),
        "arp_ip_target" if !value.is_empty() => {
            InfoBond::ArpIpTarget(list(value).iter().filter_map(|t| t.parse().ok()).collect())
        }
        "arp_validate" => InfoBond::ArpValidate(value.parse().ok()?),
        "arp_all_targets" => InfoBond::ArpAllTargets(value.parse().ok()?),
        "primary" if !value.is_empty() => InfoBond::Primary(index(value)?),
        "primary_reselect" => InfoBond::PrimaryReselect(value.parse().ok()?),
        "fail_over_mac" => InfoBond::FailOverMac(value.parse().ok()?),
        "xmit_hash_policy" => InfoBond::XmitHashPolicy(value.parse().ok()?),
        "resend_igmp" => InfoBond::ResendIgmp(number()?),
        "num_grat_arp" => InfoBond::NumPeerNotif(small()?),
        "all_slaves_active" => InfoBond::AllPortsActive(value.parse().ok()?),
        "min_links" => InfoBond::MinLinks(number()?),
        "lp_interval" => InfoBond::LpInterval(number()?),
        "packets_per_slave" => InfoBond::PacketsPerPort(number()?),
        "lacp_rate" => InfoBond::AdLacpRate(value.parse().ok()?),
        "ad_select" => InfoBond::AdSelect(value.parse().ok()?),
        "ad_actor_sys_prio" => InfoBond::AdActorSysPrio(medium()?),
        "ad_user_port_key" => InfoBond::AdUserPortKey(medium()?),
        "ad_actor_system" => InfoBond::AdActorSystem(scalar::mac_bytes(value)?.try_into().ok()?),
        "tlb_dynamic_lb" => InfoBond::TlbDynamicLb(on),
        "lacp_active" => InfoBond::AdLacpActive(on),
        "arp_missed_max" => InfoBond::MissedMax(small()?),
        "ns_ip6_target" if !value.is_empty() => {
            InfoBond::NsIp6Target(list(value).iter().filter_map(|t| t.parse().ok()).collect())
        }
        _ => return None,
    })
}

/// Lists of targets as sorted lists, empty values as none.
pub fn normalise(options: &mut Map<String, Value>) {
    for (name, value) in options.iter_mut() {
        let Some(spec) = Spec::of(name).filter(|s| matches!(s.shape, Targets4 | Targets6 | Port)) else {
            continue;
        };
        let text = text_of(value).unwrap_or_default();
        *value = match spec.shape {
            _ if text.is_empty() => Value::Null,
            Port => continue,
            _ => {
                let mut items = list(&text);
                items.sort_unstable();
                items.into()
            }
        };
    }
}

/// Where the kernel's answer is not what was asked for, but as good as it gets.
pub fn close_enough(name: &str, want: &Value, got: &Value, now: &Map<String, Value>) -> bool {
    match name {
        // kept as a multiple of miimon, rounded down (`bond_option_updelay_set`)
        "updelay" | "downdelay" => {
            let miimon = now.get("miimon").and_then(Value::as_u64).filter(|m| *m > 0);
            let rounded = miimon.zip(want.as_u64()).map(|(m, v)| v / m * m);
            got.as_u64() == rounded && rounded.is_some()
        }
        // these are told whenever they are set; balance_slb is NetworkManager's
        "primary" | "arp_ip_target" | "ns_ip6_target" | "balance_slb" => false,
        // ad_actor_* and ad_user_port_key are told only to CAP_NET_ADMIN, others not at all by an older kernel
        _ => got.is_null(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Options {
        serde_json::from_value(crate::yaml::read(text).unwrap()).unwrap()
    }

    #[test]
    fn words_numbers_and_quotes_mean_the_same() {
        let plain =
            options("{arp_validate: filter_active, all_slaves_active: delivered, miimon: 140, use_carrier: true}");
        let other = options("{arp_validate: '5', all_slaves_active: 1, miimon: '0x8c', use_carrier: 'yes'}");
        assert_eq!(plain, other);
        assert_eq!(serde_json::to_value(&plain).unwrap()["use_carrier"], true);
    }

    #[test]
    fn the_fault_tells_which_option() {
        let fault = crate::state::iface::from_value::<Options>(serde_json::json!({"miimon": "often"})).unwrap_err();
        assert_eq!(fault.path, "miimon");
    }

    #[test]
    fn every_option_comes_back_from_the_kernel() {
        // in the mode where it works, with a value that is not the default
        for spec in SPECS.iter().filter(|s| s.name != "balance_slb") {
            let value = match spec.shape {
                Number(low, high) => if spec.default == "7" { low } else { 7.min(high) }.to_string(),
                Words(words) | Numbered(words) => words[if words[1] == spec.default { 0 } else { 1 }].to_owned(),
                Switch => (spec.default != "true").to_string(),
                Mac => "02:00:00:00:00:01".to_owned(),
                Targets4 => "192.0.2.1,192.0.2.2".to_owned(),
                Targets6 => "2001:db8::1".to_owned(),
                Port => "eth7".to_owned(),
            };
            let mode = MODES.iter().find(|(m, _)| spec.works_in(*m)).unwrap().0;
            let mut profile = Profile::default();
            let wish = Options([(spec.name, value.clone())].into());
            to_profile(Some(mode), Some(&wish), &mut profile);
            let info = to_link(&profile, &|name| name.strip_prefix("eth")?.parse().ok());
            let eth7 = Link {
                index: 7,
                name: "eth7".to_owned(),
                ..Link::default()
            };
            let facts = Facts {
                links: vec![eth7],
                ..Facts::default()
            };
            let (mode_seen, seen) = from_facts(&info, &Link::default(), &facts);
            assert_eq!(mode_seen, Some(mode));
            assert_eq!(seen.get(spec.name), Some(value.as_str()), "{}", spec.name);
        }
    }

    #[test]
    fn delays_are_rounded_to_the_interval() {
        let now = Map::from_iter([("miimon".to_owned(), 100.into())]);
        assert!(close_enough("updelay", &250.into(), &200.into(), &now));
        assert!(!close_enough("updelay", &250.into(), &100.into(), &now));
        assert!(close_enough("ad_user_port_key", &5.into(), &Value::Null, &now));
        assert!(!close_enough("primary", &"eth1".into(), &Value::Null, &now));
    }
}
