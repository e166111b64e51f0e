//! `type: wireguard`: encrypted packets to peers known by their keys. Section `wireguard`. An addition to the incumbent's document.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Context, Kind, told};
use crate::error::Invalid;
use crate::facts::{Facts, Link};
use crate::profile::{self, Dict, Profile};
use crate::scalar::{self, Secret};

/// Encrypted packets to peers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wireguard {
    /// Own key and peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard: Option<Section>,
}

/// Section `wireguard`. The kernel tells nothing of it over rtnetlink: it is what the active profile says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Section {
    /// Own key: base64 of 32 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<Secret>,
    /// UDP port; 0 takes any.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub listen_port: Option<u16>,
    /// Mark of the encrypted packets; 0 is none.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub fwmark: Option<u32>,
    /// Routes to the addresses of all peers; default true.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub peer_routes: Option<bool>,
    /// Replaces the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<Vec<Peer>>,
}

/// One peer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Peer {
    /// Its key: base64 of 32 bytes.
    pub public_key: String,
    /// `192.0.2.1:51820`, `[2001:db8::1]:51820`, `vpn.example.org:51820`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Networks behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_ips: Option<Vec<String>>,
    /// Seconds between packets that keep the way open; 0 sends none.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub persistent_keepalive: Option<u16>,
    /// A second, shared key: base64 of 32 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preshared_key: Option<Secret>,
}

/// Base64 of 32 bytes: 43 letters, the last of which holds four bits only, and `=`.
fn is_key(text: &str) -> bool {
    let letter = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    let Some((b'=', rest)) = text.as_bytes().split_last() else {
        return false;
    };
    // letters of which the two lowest bits are zero
    rest.len() == 43 && rest.iter().all(letter) && rest.last().is_some_and(|b| b"AEIMQUYcgkosw048".contains(b))
}

/// `10.0.0.5/24` → `10.0.0.0/24`, `10.0.0.5` → `10.0.0.5/32`.
fn network(text: &str) -> Option<String> {
    let net = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .ok()?;
    Some(net.trunc().to_string())
}

fn bad_endpoint(text: &str) -> bool {
    let parts = text.rsplit_once(':');
    !parts.is_some_and(|(host, port)| {
        let address = match host.strip_prefix('[') {
            Some(six) => six
                .strip_suffix(']')
                .is_some_and(|six| six.parse::<std::net::Ipv6Addr>().is_ok()),
            None => !host.is_empty() && !host.contains([':', ' ', '/']),
        };
        address && port.parse::<u16>().is_ok_and(|p| p != 0)
    })
}

impl Peer {
    fn validate(&self) -> Result<(), Invalid> {
        let not_a_key = "it must be a key: base64 of 32 bytes";
        if !is_key(&self.public_key) {
            return Err(Invalid::new("public-key", not_a_key));
        }
        if told(&self.preshared_key).is_some_and(|k| !is_key(k)) {
            return Err(Invalid::new("preshared-key", not_a_key));
        }
        if let Some(wrong) = self.endpoint.as_ref().filter(|e| bad_endpoint(e)) {
            let why = format!("'{wrong}' is not host:port; IPv6 addresses stand in brackets");
            return Err(Invalid::new("endpoint", why));
        }
        let nets = self.allowed_ips.iter().flatten().enumerate();
        match nets.into_iter().find(|(_, n)| network(n).is_none()) {
            Some((i, n)) => Err(Invalid::new(
                format!("allowed-ips[{i}]"),
                format!("'{n}' is neither an IP address nor a network"),
            )),
            None => Ok(()),
        }
    }

    fn from_nm(d: &Dict) -> Self {
        let text = |key: &str| match d.get(key) {
            Some(profile::Value::Str(s)) if !s.is_empty() => Some(s.clone()),
            _ => None,
        };
        let keepalive = match d.get("persistent-keepalive") {
            Some(profile::Value::U32(v)) => u16::try_from(*v).ok(),
            _ => None,
        };
        let nets = match d.get("allowed-ips") {
            Some(profile::Value::Strs(v)) => Some(v.clone()),
            _ => None,
        };
        Peer {
            public_key: text("public-key").unwrap_or_default(),
            endpoint: text("endpoint"),
            allowed_ips: nets,
            persistent_keepalive: keepalive,
            preshared_key: text("preshared-key").map(Secret),
        }
    }

    fn to_nm(&self) -> Dict {
        let Peer {
            public_key,
            endpoint,
            allowed_ips,
            persistent_keepalive,
            preshared_key,
        } = self;
        let mut d = Dict::from([("public-key".to_owned(), public_key.clone().into())]);
        let mut put = |key: &str, value: profile::Value| d.insert(key.to_owned(), value);
        if let Some(endpoint) = endpoint {
            put("endpoint", endpoint.clone().into());
        }
        let nets: Vec<String> = allowed_ips.iter().flatten().filter_map(|n| network(n)).collect();
        if !nets.is_empty() {
            put("allowed-ips", nets.into());
        }
        if let Some(seconds) = persistent_keepalive.filter(|s| *s > 0) {
            put("persistent-keepalive", u32::from(seconds).into());
        }
        if let Some(Secret(key)) = preshared_key {
            put("preshared-key", key.clone().into());
            put("preshared-key-flags", 0u32.into());
        }
        d
    }
}

impl Section {
    fn of(profile: &Profile) -> Self {
        let number = |key: &str| profile.int("wireguard", key);
        Section {
            private_key: profile.str("wireguard", "private-key").map(|k| Secret(k.to_owned())),
            listen_port: Some(number("listen-port").and_then(|v| v.try_into().ok()).unwrap_or(0)),
            fwmark: Some(number("fwmark").and_then(|v| v.try_into().ok()).unwrap_or(0)),
            peer_routes: Some(profile.bool("wireguard", "peer-routes").unwrap_or(true)),
            peers: Some(profile.dicts("wireguard", "peers").iter().map(Peer::from_nm).collect()),
        }
    }
}

impl Kind for Wireguard {
    const TYPE: &'static str = "wireguard";
    const SECTIONS: &'static [&'static str] = &["wireguard"];
    const NM_TYPE: &'static str = "wireguard";
    const VIRTUAL: bool = true;
    const LINK_SETTING: &'static str = "wireguard";
    const SECRETS: &'static [&'static str] = &["wireguard/private-key", "wireguard/peers[public-key]/preshared-key"];

    fn is_ethernet(&self) -> bool {
        false
    }

    fn from_facts(link: &Link, facts: &Facts) -> Self {
        Wireguard {
            wireguard: facts.own_profile(&link.name).map(Section::of),
        }
    }

    fn from_profile(profile: &Profile) -> Self {
        Wireguard {
            wireguard: Some(Section::of(profile)),
        }
    }

    fn validate(&self, cx: &Context<'_>) -> Result<(), Invalid> {
        let none = Section::default();
        let s = self.wireguard.as_ref().unwrap_or(&none);
        if cx.new && s.private_key.is_none() {
            let why = "a new WireGuard interface needs its key";
            return Err(Invalid::new("wireguard.private-key", why));
        }
        if told(&s.private_key).is_some_and(|k| !is_key(k)) {
            let why = "it must be a key: base64 of 32 bytes";
            return Err(Invalid::new("wireguard.private-key", why));
        }
        let mut known = BTreeSet::new();
        for (i, peer) in s.peers.iter().flatten().enumerate() {
            let at = format!("wireguard.peers[{i}]");
            peer.validate().map_err(|e| e.under(&at))?;
            if !known.insert(&peer.public_key) {
                return Err(Invalid::new(
                    format!("{at}.public-key"),
                    "another peer has this key already",
                ));
            }
        }
        Ok(())
    }

    fn to_profile(&self, profile: &mut Profile) {
        let Wireguard { wireguard } = self;
        profile.ensure("wireguard");
        let Some(section) = wireguard else { return };
        let Section {
            private_key,
            listen_port,
            fwmark,
            peer_routes,
            peers,
        } = section;
        if let Some(Secret(key)) = private_key {
            profile.put("wireguard", "private-key", key.clone());
            profile.put("wireguard", "private-key-flags", 0u32);
        }
        for (key, number) in [("listen-port", listen_port.map(u32::from)), ("fwmark", *fwmark)] {
            if let Some(number) = number {
                profile.put("wireguard", key, number);
            }
        }
        if let Some(on) = peer_routes {
            profile.put("wireguard", "peer-routes", *on);
        }
        if let Some(peers) = peers {
            let known: Vec<Peer> = profile.dicts("wireguard", "peers").iter().map(Peer::from_nm).collect();
            let place = |p: &&Peer| known.iter().position(|k| k.public_key == p.public_key);
            // their order means nothing: as it was, new ones last
            let mut peers: Vec<&Peer> = peers.iter().collect();
            peers.sort_by_key(|p| place(p).unwrap_or(usize::MAX));
            profile.put(
                "wireguard",
                "peers",
                peers.into_iter().map(Peer::to_nm).collect::<Vec<_>>(),
            );
        }
    }

    fn nm_default(setting: &str, key: &str) -> Option<profile::Value> {
        match (setting, key) {
            ("wireguard", "peer-routes") => Some(profile::Value::Bool(true)),
            ("wireguard", "ip4-auto-default-route" | "ip6-auto-default-route") => Some(profile::Value::I32(-1)),
            _ => None,
        }
    }

    fn normalise(tree: &mut Map<String, Value>) {
        let Some(Value::Object(section)) = tree.get_mut("wireguard") else {
            return;
        };
        let Some(Value::Array(peers)) = section.get_mut("peers") else {
            return;
        };
        for peer in peers.iter_mut().filter_map(Value::as_object_mut) {
            if peer.get("persistent-keepalive") == Some(&0.into()) {
                peer.remove("persistent-keepalive");
            }
            // a list replaces: what a peer does not name it must not have
            for key in ["endpoint", "persistent-keepalive", "preshared-key"] {
                peer.entry(key).or_insert(Value::Null);
            }
            let nets = peer.get("allowed-ips").and_then(Value::as_array).into_iter().flatten();
            let nets: BTreeSet<String> = nets.filter_map(|n| network(n.as_str()?)).collect();
            peer.insert("allowed-ips".to_owned(), nets.into_iter().collect());
        }
        peers.sort_by_key(|p| p.get("public-key").and_then(Value::as_str).map(str::to_owned));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_32_bytes() {
        assert!(is_key("YAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="));
        for wrong in [
            "",
            "hush",
            "YAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBm==",
            "YAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBml=",
        ] {
            assert!(!is_key(wrong), "{wrong}");
        }
    }

    #[test]
    fn endpoints_have_a_host_and_a_port() {
        for good in ["192.0.2.1:51820", "[2001:db8::1]:1", "vpn.example.org:65535"] {
            assert!(!bad_endpoint(good), "{good}");
        }
        for bad in [
            "192.0.2.1",
            "2001:db8::1:51820",
            "host:0",
            ":1",
            "host:port",
            "[host]:1",
        ] {
            assert!(bad_endpoint(bad), "{bad}");
        }
    }
}
