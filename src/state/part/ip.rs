//! `ipv4` and `ipv6` of an interface: static, DHCP, autoconf. One struct serves both families.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{ErrorKind, Invalid};
use crate::facts::{Address, Facts, Link};
use crate::profile::{Dict, Profile};
use crate::scalar;
use crate::state::part::mptcp::Flag;

/// `ipv4` or `ipv6`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Ip {
    /// The family is in use; inherited where left out.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub enabled: Option<bool>,
    /// DHCP; inherited where left out.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub dhcp: Option<bool>,
    /// IPv6 only: router advertisements.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub autoconf: Option<bool>,
    /// Replaces the list; the first is the primary one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Vec<Addr>>,
    /// IPv4: `ll`, `iaid+duid` or any text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dhcp_client_id: Option<String>,
    /// IPv6: `ll`, `llt`, `en`, `uuid` or any text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dhcp_duid: Option<String>,
    /// Take name servers from DHCP or RA.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub auto_dns: Option<bool>,
    /// Take the default route from DHCP or RA.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub auto_gateway: Option<bool>,
    /// Take routes from DHCP or RA.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub auto_routes: Option<bool>,
    /// Table for those routes; 0 is main.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub auto_route_table_id: Option<u32>,
    /// Metric of those routes; -1 is NetworkManager's choice.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub auto_route_metric: Option<i64>,
    /// IPv4: metric of the routes that come with addresses, and of routes without one of their own. NetworkManager keeps one number
    /// for both, so it must be `auto-route-metric` where both are given.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub prefix_route_metric: Option<i64>,
    /// Let others add addresses; default true.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub allow_extra_address: Option<bool>,
    /// Tell the DHCP server our host name.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub dhcp_send_hostname: Option<bool>,
    /// The name to tell; empty clears.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dhcp_custom_hostname: Option<String>,
    /// IPv4: forward packets that arrive here. Set by NetworkManager 1.54 and later only.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub forwarding: Option<bool>,
    /// IPv6: `eui64`, `stable-privacy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addr_gen_mode: Option<String>,
    /// IPv6: interface identifier; upper half zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// One address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Addr {
    /// The address.
    pub ip: IpAddr,
    /// Bits of the network.
    pub prefix_length: u8,
    /// Only read: `43200sec` or `forever`; a finite life marks an address that DHCP or RA gave.
    #[serde(
        default,
        alias = "valid-left",
        alias = "valid-lft",
        skip_serializing_if = "Option::is_none"
    )]
    pub valid_life_time: Option<String>,
    /// Only read.
    #[serde(
        default,
        alias = "preferred-left",
        alias = "preferred-lft",
        skip_serializing_if = "Option::is_none"
    )]
    pub preferred_life_time: Option<String>,
    /// Only read: who made it (`lo`, `ra`, `kernel_ll`, or a number that another program gave, such as `0x19`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Only read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mptcp_flags: Option<Vec<Flag>>,
}

impl Addr {
    /// An address for ever.
    pub fn plain(ip: IpAddr, prefix_length: u8) -> Self {
        Addr {
            ip,
            prefix_length,
            valid_life_time: None,
            preferred_life_time: None,
            protocol: None,
            mptcp_flags: None,
        }
    }

    /// Given by DHCP or RA.
    pub fn is_dynamic(&self) -> bool {
        self.valid_life_time.as_deref().is_some_and(|l| l != "forever")
    }

    /// Made by another program, which looks after it (`IFA_PROTO`): neither kept nor compared nor taken away.
    pub fn is_foreign(&self) -> bool {
        let known = |p: &str| matches!(p, "lo" | "ra" | "kernel_ll");
        self.protocol.as_deref().is_some_and(|p| !known(p))
    }

    fn from_facts(a: &Address, facts: &Facts) -> Self {
        let endpoint = facts
            .mptcp
            .iter()
            .find(|e| e.ip == a.ip && (e.link == a.link || e.link == 0));
        let life = |seconds: Option<u32>| Some(seconds.map_or("forever".to_owned(), |s| format!("{s}sec")));
        Addr {
            ip: a.ip,
            prefix_length: a.prefix,
            valid_life_time: if a.dynamic { life(a.valid) } else { None },
            preferred_life_time: if a.dynamic { life(a.preferred) } else { None },
            protocol: match a.protocol {
                1 => Some("lo".to_owned()),
                2 => Some("ra".to_owned()),
                3 => Some("kernel_ll".to_owned()),
                0 => None,
                other => Some(format!("0x{other:02x}")),
            },
            mptcp_flags: endpoint.map(|e| Flag::of_kernel(e.flags)),
        }
    }
}

/// `fe80::/10` (RFC 4291).
pub fn is_link_local(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Keys of NetworkManager that mean nothing where no server or router is asked.
const AUTO_KEYS: [&str; 13] = [
    "ignore-auto-dns",
    "ignore-auto-routes",
    "never-default",
    "route-table",
    "dhcp-client-id",
    "dhcp-duid",
    "dhcp-iaid",
    "dhcp-timeout",
    "dhcp-send-hostname",
    "dhcp-hostname",
    "dhcp-fqdn",
    "ra-timeout",
    "token",
];
/// Keys that mean nothing where the family is off.
const ENABLED_KEYS: [&str; 11] = [
    "dns",
    "dns-data",
    "dns-search",
    "dns-options",
    "dns-priority",
    "route-data",
    "routing-rules",
    "gateway",
    "route-metric",
    "may-fail",
    "forwarding",
];

/// `IFA_PROTO` as a number: `25` or `0x19`.
fn is_protocol(text: &str) -> bool {
    let number = match text.strip_prefix("0x") {
        Some(hex) => u8::from_str_radix(hex, 16),
        None => text.parse::<u8>(),
    };
    number.is_ok()
}

/// Words for a DUID: NetworkManager's (`ipv6.dhcp-duid`), and `uuid`, which is its `stable-uuid`. It makes none of an enterprise's number.
const DUIDS: [&str; 7] = ["ll", "llt", "uuid", "lease", "stable-ll", "stable-llt", "stable-uuid"];

/// One of the words, or what NetworkManager reads as bytes: one or two digits each with colons between them, or two each without.
fn is_duid(text: &str) -> bool {
    let hex = |t: &str| t.chars().all(|c| c.is_ascii_hexdigit());
    let bytes = match text.contains(':') {
        true => text
            .split(':')
            .all(|b| matches!(b.len(), 1 | 2) && hex(b))
            .then(|| text.split(':').count()),
        false => (text.len().is_multiple_of(2) && hex(text)).then_some(text.len() / 2),
    };
    DUIDS.contains(&text) || bytes.is_some_and(|n| (3..=130).contains(&n))
}

const EUI64: &str = "eui64";

/// One that sets something; these two take it away.
fn is_token(text: &str) -> bool {
    !matches!(text, "" | "::")
}

/// NetworkManager's number of `addr-gen-mode` (`NM_SETTING_IP6_CONFIG_ADDR_GEN_MODE_*`); 2 and 3 are its own choice.
fn addr_gen_number(word: &str) -> Option<i32> {
    match word {
        EUI64 => Some(0),
        "stable-privacy" => Some(1),
        _ => None,
    }
}

/// 169.254.0.0/16: what NetworkManager or another program gave itself. Kept where it is asked for, not by itself.
fn is_self_given(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V4(v4) if v4.is_link_local())
}

fn setting(ipv6: bool) -> &'static str {
    if ipv6 { "ipv6" } else { "ipv4" }
}

impl Ip {
    /// The family switched off.
    pub fn disabled() -> Self {
        Ip {
            enabled: Some(false),
            ..Ip::default()
        }
    }

    /// One static address.
    pub fn of(address: Addr) -> Self {
        Ip {
            enabled: Some(true),
            dhcp: Some(false),
            address: Some(vec![address]),
            ..Ip::default()
        }
    }

    /// Enabled.
    pub fn is_enabled(&self) -> bool {
        self.enabled == Some(true)
    }

    /// Gets its addresses from a server or router.
    pub fn is_auto(&self) -> bool {
        self.is_enabled() && (self.dhcp == Some(true) || self.autoconf == Some(true))
    }

    /// Leaves only addresses that a person wrote.
    pub fn drop_dynamic(&mut self) {
        let kept: Option<Vec<Addr>> = self
            .address
            .as_ref()
            .map(|_| self.static_addresses().cloned().collect());
        self.address = kept;
    }

    /// NetworkManager has something to do for it, so that routes, rules and name servers can be kept with it: to it, IPv4 without addresses is off.
    pub fn is_in_use(&self, ipv6: bool) -> bool {
        self.is_enabled() && (ipv6 || self.is_auto() || self.static_addresses().next().is_some())
    }

    /// Addresses that a person wrote: neither dynamic nor link-local.
    pub fn static_addresses(&self) -> impl Iterator<Item = &Addr> {
        self.address.iter().flatten().filter(|a| {
            !a.is_dynamic() && !a.is_foreign() && !is_link_local(&a.ip) && a.protocol.as_deref() != Some("ra")
        })
    }

    /// Faults that can be told without looking at the node. Paths start below `ipv4` or `ipv6`.
    pub fn validate(&self, ipv6: bool) -> Result<(), Invalid> {
        if !ipv6 {
            for (key, given) in [
                ("autoconf", self.autoconf.is_some()),
                ("token", self.token.is_some()),
                ("addr-gen-mode", self.addr_gen_mode.is_some()),
                ("dhcp-duid", self.dhcp_duid.is_some()),
            ] {
                if given {
                    return Err(Invalid::new(key, "belongs to ipv6 only"));
                }
            }
        } else {
            for (key, given) in [
                ("forwarding", self.forwarding.is_some()),
                ("dhcp-client-id", self.dhcp_client_id.is_some()),
                ("prefix-route-metric", self.prefix_route_metric.is_some()),
            ] {
                if given {
                    return Err(Invalid::new(key, "belongs to ipv4 only"));
                }
            }
        }
        for (i, a) in self.address.iter().flatten().enumerate() {
            let at = format!("address[{i}]");
            if a.ip.is_ipv6() != ipv6 {
                return Err(Invalid::new(
                    format!("{at}.ip"),
                    format!("{} is not an {} address", a.ip, if ipv6 { "IPv6" } else { "IPv4" }),
                ));
            }
            // multicast in IPv4 the kernel takes
            if a.ip.is_unspecified() || ipv6 && a.ip.is_multicast() {
                return Err(Invalid::new(
                    format!("{at}.ip"),
                    format!("the kernel gives {} to no interface", a.ip),
                ));
            }
            let max = if ipv6 { 128 } else { 32 };
            if a.prefix_length > max {
                return Err(Invalid::new(
                    format!("{at}.prefix-length"),
                    format!("{} is larger than {max}", a.prefix_length),
                ));
            }
            if let Some(tag) = a.protocol.as_deref().filter(|t| a.is_foreign() && !is_protocol(t)) {
                return Err(Invalid::new(
                    format!("{at}.protocol"),
                    format!("'{tag}' is none of lo, ra, kernel_ll and no number below 256"),
                ));
            }
        }
        if let Some(duid) = self.dhcp_duid.as_deref().filter(|d| !d.is_empty() && !is_duid(d)) {
            return Err(Invalid::new(
                "dhcp-duid",
                format!(
                    "'{duid}' is none of {} and no 3 to 130 bytes in hex, as 00:04:…",
                    DUIDS.join(", ")
                ),
            ));
        }
        self.validate_metrics()?;
        if let Some(mode) = self.addr_gen_mode.as_deref().filter(|m| addr_gen_number(m).is_none()) {
            return Err(Invalid::new(
                "addr-gen-mode",
                format!("'{mode}' is neither eui64 nor stable-privacy"),
            ));
        }
        if self.autoconf == Some(true) && self.dhcp == Some(false) {
            return Err(self.no_slaac_alone());
        }
        self.validate_token()
    }

    fn validate_metrics(&self) -> Result<(), Invalid> {
        for (key, metric) in [
            ("auto-route-metric", self.auto_route_metric),
            ("prefix-route-metric", self.prefix_route_metric),
        ] {
            if let Some(metric) = metric.filter(|m| *m < -1 || *m > i64::from(u32::MAX)) {
                return Err(Invalid::new(key, format!("{metric} is outside -1–{}", u32::MAX)));
            }
        }
        match (self.auto_route_metric, self.prefix_route_metric) {
            (Some(auto), Some(prefix)) if auto != prefix && auto != -1 && prefix != -1 => Err(Invalid::of(
                ErrorKind::NotSupportedError,
                "prefix-route-metric",
                format!("NetworkManager keeps one metric for both, and auto-route-metric is {auto}"),
            )),
            _ => Ok(()),
        }
    }

    fn no_slaac_alone(&self) -> Invalid {
        match self.dhcp {
            Some(false) => Invalid::of(
                ErrorKind::NotImplementedError,
                "autoconf",
                "NetworkManager cannot do autoconf without DHCPv6; set dhcp: true as well, or autoconf: false",
            ),
            _ => Invalid::of(
                ErrorKind::NotImplementedError,
                "autoconf",
                "NetworkManager cannot do autoconf without DHCPv6; set dhcp: true as well",
            ),
        }
    }

    /// Faults of the wish laid over what is.
    pub fn validate_merged(desired: &Ip, current: Option<&Ip>) -> Result<(), Invalid> {
        let merged = Ip::merge(desired, current);
        match merged.is_enabled() && merged.autoconf == Some(true) && merged.dhcp != Some(true) {
            true => Err(desired.no_slaac_alone()),
            false => Ok(()),
        }
    }

    /// It switches IPv4 on and nothing says where an address is to come from: it would stay off. (An empty list says that none is meant.)
    pub fn lacks_address(desired: &Ip, current: Option<&Ip>) -> bool {
        let silent = desired.enabled == Some(true) && desired.address.is_none();
        silent && !current.is_some_and(Ip::is_enabled) && !Ip::merge(desired, current).is_in_use(false)
    }

    /// A wish that leaves `enabled` out is not for a family that is off; nmstate 2.2 passes over it without a word. Takes it out; says what it was.
    pub fn skip_unused(&mut self, current: Option<&Ip>) -> Option<&'static str> {
        if self.enabled.is_some() || current.is_some_and(Ip::is_enabled) {
            return None;
        }
        let unused = [
            ("dhcp", self.dhcp == Some(true)),
            ("autoconf", self.autoconf == Some(true)),
            ("address", self.address.as_ref().is_some_and(|a| !a.is_empty())),
        ];
        let (key, _) = unused.into_iter().find(|(_, given)| *given)?;
        *self = Ip::default();
        Some(key)
    }

    /// Leaves out what this NetworkManager cannot do; says what.
    pub fn skip_unsupported(&mut self, link: Option<&Link>, facts: &Facts) -> Option<String> {
        let wish = self.forwarding.filter(|_| !facts.nm_at_least("1.54"))?;
        self.forwarding = None;
        let kept = link.and_then(|l| l.ipv4_forwarding) == Some(wish);
        (!kept).then(|| {
            format!(
                "ipv4.forwarding is left out: it needs NetworkManager 1.54; this node has {}",
                facts.nm_version
            )
        })
    }

    fn validate_token(&self) -> Result<(), Invalid> {
        let Some(token) = self.token.as_deref().filter(|t| !t.is_empty()) else {
            return Ok(());
        };
        if self.autoconf == Some(false) {
            return Err(Invalid::new("token", "a token needs autoconf"));
        }
        if is_token(token) && self.addr_gen_mode.as_deref().is_some_and(|mode| mode != EUI64) {
            return Err(Invalid::new("addr-gen-mode", "a token needs eui64"));
        }
        match token.parse::<std::net::Ipv6Addr>() {
            Ok(ip) if ip.segments()[..4] == [0; 4] => Ok(()),
            _ => Err(Invalid::new(
                "token",
                format!("'{token}' is not an IPv6 address with its upper 64 bits zero"),
            )),
        }
    }

    /// What kernel and profile say of one family.
    pub fn from_facts(ipv6: bool, link: &Link, facts: &Facts) -> Self {
        let mine = facts
            .addresses_of(link.index)
            .into_iter()
            .filter(|a| a.ip.is_ipv6() == ipv6);
        let addresses: Vec<Addr> = mine.map(|a| Addr::from_facts(a, facts)).collect();
        let own = facts.device(&link.name).filter(|d| !d.external() && d.state > 10);
        let profile = own.and_then(|_| facts.active_profile(&link.name)).map(|p| &p.profile);
        let method = profile.and_then(|p| p.str(setting(ipv6), "method"));
        let enabled = match method {
            Some("disabled") => false,
            Some("ignore") | None => !addresses.is_empty(),
            Some(_) => true,
        };
        if !enabled || (ipv6 && link.ipv6_disabled) {
            return Ip::disabled();
        }
        let auto = method == Some("auto");
        let mut ip = Ip {
            enabled: Some(true),
            dhcp: Some(auto || method == Some("dhcp")),
            autoconf: ipv6.then_some(auto),
            address: Some(addresses),
            ..Ip::default()
        };
        if let Some(profile) = profile.filter(|_| ip.is_auto()) {
            ip.read_auto(ipv6, profile);
        }
        if ipv6 {
            ip.addr_gen_mode = match link.addr_gen_mode {
                Some(0) => Some(EUI64.to_owned()),
                Some(2) => Some("stable-privacy".to_owned()),
                _ => None,
            };
            // NetworkManager makes addresses itself and tells the kernel 'none'
            match profile.and_then(|p| p.int("ipv6", "addr-gen-mode")) {
                Some(0) => ip.addr_gen_mode = Some(EUI64.to_owned()),
                Some(1) => ip.addr_gen_mode = Some("stable-privacy".to_owned()),
                _ => {}
            }
            ip.token = profile.and_then(|p| p.str("ipv6", "token")).map(str::to_owned);
        } else {
            ip.forwarding = link.ipv4_forwarding;
            ip.prefix_route_metric = profile.map(|p| p.int("ipv4", "route-metric").unwrap_or(-1));
        }
        ip
    }

    fn read_auto(&mut self, ipv6: bool, profile: &Profile) {
        let s = setting(ipv6);
        let off = |key: &str| Some(!profile.bool(s, key).unwrap_or(false));
        self.auto_dns = off("ignore-auto-dns");
        self.auto_gateway = off("never-default");
        self.auto_routes = off("ignore-auto-routes");
        self.auto_route_table_id = Some(profile.int(s, "route-table").unwrap_or(0).try_into().unwrap_or(0));
        self.auto_route_metric = Some(profile.int(s, "route-metric").unwrap_or(-1));
        self.dhcp_send_hostname = Some(profile.bool(s, "dhcp-send-hostname").unwrap_or(true));
        let custom = profile.str(s, "dhcp-hostname").or_else(|| profile.str(s, "dhcp-fqdn"));
        self.dhcp_custom_hostname = custom.filter(|h| !h.is_empty()).map(str::to_owned);
        if ipv6 {
            self.dhcp_duid = profile.str(s, "dhcp-duid").map(|id| match id {
                "stable-uuid" => "uuid".to_owned(),
                other => other.to_owned(),
            });
        } else {
            self.dhcp_client_id = profile.str(s, "dhcp-client-id").map(|id| match id {
                "mac" => "ll".to_owned(),
                "duid" => "iaid+duid".to_owned(),
                other => other.to_owned(),
            });
        }
    }

    /// Lays a wish over what is. Addresses that DHCP gave become static when DHCP is switched off and none are written. A wish that asks for
    /// DHCP or autoconf says which addresses there are besides, and whether something of what is given is not used.
    pub fn merge(desired: &Ip, current: Option<&Ip>) -> Ip {
        let none = Ip::default();
        let current = current.unwrap_or(&none);
        let enabled = desired.enabled.or(current.enabled).unwrap_or(false);
        if !enabled {
            return Ip::disabled();
        }
        let d = desired.clone();
        let mut c = current.clone();
        let asks = desired.dhcp == Some(true) || desired.autoconf == Some(true);
        if asks {
            (c.auto_dns, c.auto_gateway, c.auto_routes) = (Some(true), Some(true), Some(true));
        }
        let mut merged = Ip {
            enabled: Some(true),
            dhcp: d.dhcp.or(c.dhcp),
            autoconf: d.autoconf.or(c.autoconf),
            address: d.address,
            dhcp_client_id: d.dhcp_client_id.or(c.dhcp_client_id),
            dhcp_duid: d.dhcp_duid.or(c.dhcp_duid),
            auto_dns: d.auto_dns.or(c.auto_dns),
            auto_gateway: d.auto_gateway.or(c.auto_gateway),
            auto_routes: d.auto_routes.or(c.auto_routes),
            auto_route_table_id: d.auto_route_table_id.or(c.auto_route_table_id),
            auto_route_metric: d.auto_route_metric.or(c.auto_route_metric),
            prefix_route_metric: d.prefix_route_metric.or(c.prefix_route_metric),
            allow_extra_address: d.allow_extra_address,
            dhcp_send_hostname: d.dhcp_send_hostname.or(c.dhcp_send_hostname),
            dhcp_custom_hostname: d.dhcp_custom_hostname.or(c.dhcp_custom_hostname),
            forwarding: d.forwarding, // the kernel's own value is not made a setting
            addr_gen_mode: d.addr_gen_mode.or(c.addr_gen_mode),
            token: d.token.or(c.token),
        };
        // one number for both: the one that the wish names
        if desired.auto_route_metric.is_none() != desired.prefix_route_metric.is_none() {
            let named = desired.auto_route_metric.or(desired.prefix_route_metric);
            (merged.auto_route_metric, merged.prefix_route_metric) = (named, named);
        }
        let becomes_static = current.is_auto() && !merged.is_auto();
        let given = |list: &Vec<Addr>| !becomes_static || list.is_empty() || !list.iter().all(Addr::is_dynamic);
        if !merged.address.as_ref().is_some_and(given) {
            merged.address = Some(match asks {
                true => merged.address.unwrap_or_default(),
                false => current.kept_addresses(becomes_static),
            });
        }
        merged.settle_token(desired);
        if !merged.is_auto() {
            merged.forget_auto();
        }
        merged
    }

    /// NetworkManager takes a token with `eui64` only: whichever of the two the wish names decides about the other.
    fn settle_token(&mut self, desired: &Ip) {
        if !self.token.as_deref().is_some_and(is_token) {
            return;
        }
        match desired.addr_gen_mode.as_deref() {
            None => self.addr_gen_mode = Some(EUI64.to_owned()),
            Some(EUI64) => {}
            Some(_) => self.token = Some(String::new()),
        }
    }

    /// Addresses that stay where the wish names none: those that a person wrote, and those of a server that is asked no more.
    fn kept_addresses(&self, dynamic_too: bool) -> Vec<Addr> {
        self.address
            .iter()
            .flatten()
            .filter(|a| dynamic_too || !a.is_dynamic())
            .filter(|a| !a.is_foreign() && !is_link_local(&a.ip) && !is_self_given(&a.ip))
            .map(|a| Addr {
                valid_life_time: None,
                preferred_life_time: None,
                protocol: None,
                mptcp_flags: None,
                ..a.clone()
            })
            .collect()
    }

    fn forget_auto(&mut self) {
        *self = Ip {
            enabled: self.enabled,
            dhcp: self.dhcp,
            autoconf: self.autoconf,
            address: self.address.take(),
            prefix_route_metric: self.prefix_route_metric,
            allow_extra_address: self.allow_extra_address,
            forwarding: self.forwarding,
            addr_gen_mode: self.addr_gen_mode.take(),
            ..Ip::default()
        };
    }

    /// Writes setting `ipv4` or `ipv6`. `self` is merged: it says everything.
    pub fn to_profile(&self, ipv6: bool, profile: &mut Profile) {
        let s = setting(ipv6);
        let addresses: Vec<Dict> = self.unique_addresses().iter().map(nm_address).collect();
        let method = match (self.is_enabled(), self.dhcp == Some(true), self.autoconf == Some(true)) {
            (false, _, _) => "disabled",
            (true, true, _) if !ipv6 => "auto",
            (true, _, true) => "auto",
            (true, true, false) => "dhcp",
            (true, false, false) if !addresses.is_empty() => "manual",
            _ if ipv6 => "link-local",
            _ => "disabled",
        };
        // a family that was off has no way of its own to make addresses
        let new = matches!(profile.str(s, "method"), None | Some("disabled"));
        profile.put(s, "method", method);
        match addresses.is_empty() {
            true => profile.remove(s, "address-data"),
            false => profile.put(s, "address-data", addresses),
        }
        let without = |keys: &[&str], profile: &mut Profile| keys.iter().for_each(|key| profile.remove(s, key));
        if !self.is_auto() {
            without(&AUTO_KEYS, profile);
        }
        match method {
            "disabled" => return without(&ENABLED_KEYS, profile),
            // not in force beside a global setting, but NetworkManager refuses the profile
            "link-local" => without(&["dns", "dns-data", "dns-search"], profile),
            _ => {}
        }
        // -1 on one side is no opinion
        let metrics = [
            self.prefix_route_metric,
            self.auto_route_metric.filter(|_| self.is_auto()),
        ];
        match metrics.iter().flatten().max() {
            Some(metric) => profile.put(s, "route-metric", *metric),
            None if ipv6 && !self.is_auto() => profile.remove(s, "route-metric"),
            None => {}
        }
        if let Some(on) = self.forwarding {
            profile.put(s, "forwarding", i32::from(on));
        }
        if self.is_auto() {
            self.auto_to_profile(ipv6, profile);
        }
        if ipv6 {
            if let Some(mode) = self.addr_gen_mode.as_deref().and_then(addr_gen_number) {
                profile.put(s, "addr-gen-mode", mode);
            } else if new {
                profile.put(s, "addr-gen-mode", 0);
            }
            match self.token.as_deref() {
                Some(token) if is_token(token) => profile.put(s, "token", token),
                Some(_) => profile.remove(s, "token"),
                None => {}
            }
        }
    }

    fn auto_to_profile(&self, ipv6: bool, profile: &mut Profile) {
        let s = setting(ipv6);
        for (key, value) in [
            ("ignore-auto-dns", self.auto_dns),
            ("never-default", self.auto_gateway),
            ("ignore-auto-routes", self.auto_routes),
        ] {
            if let Some(on) = value {
                profile.put(s, key, !on);
            }
        }
        if let Some(table) = self.auto_route_table_id {
            profile.put(s, "route-table", table);
        }
        if let Some(send) = self.dhcp_send_hostname {
            profile.put(s, "dhcp-send-hostname", send);
        }
        match self.dhcp_custom_hostname.as_deref() {
            Some("") => {
                profile.remove(s, "dhcp-hostname");
                profile.remove(s, "dhcp-fqdn");
            }
            Some(name) => {
                let (key, other) = if !ipv6 && name.contains('.') {
                    ("dhcp-fqdn", "dhcp-hostname")
                } else {
                    ("dhcp-hostname", "dhcp-fqdn")
                };
                profile.remove(s, other);
                profile.put(s, key, name);
            }
            None => {}
        }
        // a server that is away must not take the link down (NM counts i32::MAX as infinity)
        profile.put(s, "dhcp-timeout", i32::MAX);
        if ipv6 {
            profile.put(s, "ra-timeout", i32::MAX);
            let id = match self.dhcp_duid.as_deref() {
                None | Some("") => "ll",
                Some("uuid") => "stable-uuid",
                Some(other) => other,
            };
            profile.put(s, "dhcp-duid", id);
            profile.put(s, "dhcp-iaid", "mac");
        } else {
            let id = match self.dhcp_client_id.as_deref() {
                None | Some("" | "ll" | "LL") => "mac",
                Some("iaid+duid") => "duid",
                Some(other) => other,
            };
            profile.put(s, "dhcp-client-id", id);
        }
    }

    fn unique_addresses(&self) -> Vec<Addr> {
        let mut seen = BTreeSet::new();
        self.static_addresses()
            .filter(|a| seen.insert((a.ip, a.prefix_length)))
            .cloned()
            .collect()
    }

    /// Brings a tree to the form in which wish and reading are compared.
    pub fn normalise(tree: &mut Map<String, Value>, ipv6: bool) {
        tree.remove("allow-extra-address");
        if tree.get("enabled") == Some(&Value::Bool(false)) {
            tree.retain(|k, _| k == "enabled");
            return;
        }
        let auto = ["dhcp", "autoconf"]
            .iter()
            .any(|k| tree.get(*k) == Some(&Value::Bool(true)));
        if let Some(Value::Array(list)) = tree.remove("address") {
            let wanted: Map<String, Value> = list
                .iter()
                .filter_map(|a| serde_json::from_value::<Addr>(a.clone()).ok())
                .filter(|a| !a.is_dynamic() && !a.is_foreign() && !is_link_local(&a.ip))
                .map(|a| (format!("{}/{}", a.ip, a.prefix_length), Value::Bool(true)))
                .collect();
            // the kernel cannot tell an IPv4 without addresses from none
            if wanted.is_empty() && !auto && !ipv6 {
                tree.remove("enabled");
                tree.remove("dhcp");
            }
            tree.insert("address".into(), Value::Object(wanted));
        }
        if !auto {
            tree.retain(|k, _| {
                matches!(
                    k.as_str(),
                    "enabled"
                        | "dhcp"
                        | "autoconf"
                        | "address"
                        | "forwarding"
                        | "addr-gen-mode"
                        | "prefix-route-metric"
                )
            });
        }
        for key in ["auto-route-metric", "prefix-route-metric"] {
            if tree.get(key).and_then(Value::as_i64) == Some(-1) {
                tree.remove(key);
            }
        }
        for (key, nothing) in [("dhcp-custom-hostname", ""), ("token", "")] {
            if tree
                .get(key)
                .and_then(Value::as_str)
                .is_some_and(|v| v == nothing || v == "::")
            {
                tree.remove(key);
            }
        }
        for (key, word, same) in [
            ("dhcp-client-id", "LL", "ll"),
            ("dhcp-client-id", "", "ll"),
            ("dhcp-duid", "stable-uuid", "uuid"),
            ("dhcp-duid", "", "ll"),
        ] {
            if tree.get(key).and_then(Value::as_str) == Some(word) {
                tree.insert(key.into(), same.into());
            }
        }
    }
}

fn nm_address(a: &Addr) -> Dict {
    let mut d = Dict::new();
    d.insert("address".into(), a.ip.to_string().into());
    d.insert("prefix".into(), u32::from(a.prefix_length).into());
    d
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Ip {
        serde_json::from_value(crate::yaml::read(text).unwrap()).unwrap()
    }

    #[test]
    fn dhcp_off_makes_its_addresses_static() {
        let current =
            ip("{enabled: true, dhcp: true, address: [{ip: 192.0.2.9, prefix-length: 24, valid-life-time: 30sec}]}");
        let merged = Ip::merge(&ip("{dhcp: false}"), Some(&current));
        assert_eq!(merged.static_addresses().count(), 1);
        let mut profile = Profile::default();
        merged.to_profile(false, &mut profile);
        assert_eq!(profile.str("ipv4", "method"), Some("manual"));
    }

    #[test]
    fn a_lease_written_back_with_dhcp_off_becomes_static() {
        let lease = "{ip: 192.0.2.9, prefix-length: 24, valid-life-time: 30sec}";
        let others = "{ip: 192.0.2.7, prefix-length: 24, protocol: '0x19'}, {ip: 169.254.1.1, prefix-length: 16}";
        let current = ip(&format!("{{enabled: true, dhcp: true, address: [{lease}, {others}]}}"));
        let texts = |wish: &str| -> Vec<String> {
            let merged = Ip::merge(&ip(wish), Some(&current));
            merged.static_addresses().map(|a| a.ip.to_string()).collect()
        };
        assert_eq!(texts(&format!("{{dhcp: false, address: [{lease}]}}")), ["192.0.2.9"]);
        assert_eq!(texts("{dhcp: false}"), ["192.0.2.9"]);
        assert!(texts("{dhcp: false, address: []}").is_empty());
        assert!(texts("{dhcp: true}").is_empty(), "what the server gives stays its own");
        let named = "{dhcp: false, address: [{ip: 192.0.2.1, prefix-length: 24}]}";
        assert_eq!(texts(named), ["192.0.2.1"]);
    }

    #[test]
    fn faults_name_their_key() {
        let fault = |text: &str, ipv6| ip(text).validate(ipv6).unwrap_err().path;
        assert_eq!(
            fault("{address: [{ip: '::1', prefix-length: 64}]}", false),
            "address[0].ip"
        );
        assert_eq!(
            fault("{address: [{ip: 192.0.2.1, prefix-length: 33}]}", false),
            "address[0].prefix-length"
        );
        assert_eq!(fault("{autoconf: true}", false), "autoconf");
        assert_eq!(fault("{token: 'fe80::1'}", true), "token");
    }

    #[test]
    fn methods() {
        for (text, ipv6, method) in [
            ("{enabled: false}", false, "disabled"),
            ("{enabled: true, dhcp: true}", false, "auto"),
            ("{enabled: true, dhcp: true, autoconf: true}", true, "auto"),
            ("{enabled: true, dhcp: true, autoconf: false}", true, "dhcp"),
            ("{enabled: true}", true, "link-local"),
        ] {
            let mut profile = Profile::default();
            Ip::merge(&ip(text), None).to_profile(ipv6, &mut profile);
            assert_eq!(profile.str(setting(ipv6), "method"), Some(method), "{text}");
        }
    }
}
