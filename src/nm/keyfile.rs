//! A profile as the text of a `.nmconnection` file (nm-settings-keyfile(5)). Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::profile::{Dict, Profile, Value};

/// The whole file.
pub fn write(profile: &Profile) -> String {
    let mut out = String::new();
    for name in order(profile) {
        let keys = &profile.settings[name];
        let lines = section(name, keys);
        // an empty setting still says what the profile is
        if !lines.is_empty() || profile.str("connection", "type") == Some(name) || name.starts_with("ipv") {
            push(&mut out, &alias(name), &lines);
        }
        extra_sections(name, keys, &mut out);
    }
    out
}

fn push(out: &mut String, section: &str, lines: &[(String, String)]) {
    if !out.is_empty() {
        out.push('\n');
    }
    let _ = writeln!(out, "[{section}]");
    for (key, value) in lines {
        let _ = writeln!(out, "{key}={value}");
    }
}

/// `connection` first, then the rest by name.
fn order(profile: &Profile) -> Vec<&str> {
    let mut names: Vec<&str> = profile.settings.keys().map(String::as_str).collect();
    names.sort_by_key(|n| (*n != "connection", *n));
    names
}

/// Short names of sections.
fn alias(setting: &str) -> String {
    match setting {
        "802-3-ethernet" => "ethernet".to_owned(),
        other => other.to_owned(),
    }
}

fn section(setting: &str, keys: &Dict) -> Vec<(String, String)> {
    let mut lines = vec![];
    for (key, value) in keys {
        match (setting, key.as_str(), value) {
            ("connection", "type", Value::Str(t)) => lines.push((key.clone(), alias(t))),
            // profiles come up by themselves unless they say otherwise
            ("connection", "autoconnect", Value::Bool(true)) => {}
            ("ipv4" | "ipv6", "address-data", Value::Dicts(list)) => {
                lines.extend((1..).zip(list).map(|(n, d)| (format!("address{n}"), address(d))))
            }
            ("ipv4" | "ipv6", "route-data", Value::Dicts(list)) => {
                for (n, d) in (1..).zip(list) {
                    lines.push((format!("route{n}"), route(d)));
                    lines.extend(
                        Some(route_options(d))
                            .filter(|o| !o.is_empty())
                            .map(|o| (format!("route{n}_options"), o)),
                    );
                }
            }
            ("ipv4" | "ipv6", "routing-rules", Value::Dicts(list)) => lines.extend(
                (1..)
                    .zip(list)
                    .map(|(n, d)| (format!("routing-rule{n}"), rule(d, setting == "ipv6"))),
            ),
            ("bond", "options", Value::StrMap(map)) => lines.extend(texts(map)),
            ("bridge" | "bridge-port", "vlans", Value::Dicts(list)) => {
                lines.push((key.clone(), list.iter().map(vlan).collect::<Vec<_>>().join(", ")))
            }
            ("ovs-port", "trunks", Value::Dicts(list)) => {
                let range = |d: &Dict| span(number(d, "start"), number(d, "end"));
                lines.push((key.clone(), list.iter().map(range).collect::<Vec<_>>().join(", ")))
            }
            ("sriov", "vfs", Value::Dicts(list)) => lines.extend(list.iter().map(vf)),
            ("802-1x", _, Value::Bytes(path)) => lines.push((key.clone(), file_path(path))),
            ("wireguard", "peers", _) | ("vpn", "secrets", _) => {}
            (_, "data", Value::StrMap(map)) if setting == "vpn" || setting == "user" => lines.extend(texts(map)),
            (_, "data", Value::StrMap(map)) => lines.extend(texts(map).map(|(k, v)| (format!("data.{k}"), v))),
            (_, _, value) => lines.extend(plain(value).map(|text| (key.clone(), text))),
        }
    }
    lines
}

/// Sections that come out of one key: the peers of WireGuard, the secrets of a VPN.
fn extra_sections(setting: &str, keys: &Dict, out: &mut String) {
    if let ("wireguard", Some(Value::Dicts(peers))) = (setting, keys.get("peers")) {
        for peer in peers {
            let name = match peer.get("public-key") {
                Some(Value::Str(key)) => format!("wireguard-peer.{key}"),
                _ => continue,
            };
            let rest = peer.iter().filter(|(k, _)| *k != "public-key");
            let lines: Vec<_> = rest.filter_map(|(k, v)| Some((k.clone(), plain(v)?))).collect();
            push(out, &name, &lines);
        }
    }
    if let ("vpn", Some(Value::StrMap(secrets))) = (setting, keys.get("secrets")) {
        push(out, "vpn-secrets", &texts(secrets).collect::<Vec<_>>());
    }
}

/// Keys that people chose, and their texts.
fn texts(map: &BTreeMap<String, String>) -> impl Iterator<Item = (String, String)> + '_ {
    map.iter().map(|(key, text)| (escape_key(key), escape(text)))
}

/// `nm_keyfile_key_encode`: what could be taken for something else as its number.
fn escape_key(key: &str) -> String {
    key.bytes().fold(String::new(), |mut out, byte| {
        match byte.is_ascii_alphanumeric() || b"-_./+".contains(&byte) {
            true => out.push(char::from(byte)),
            false => drop(write!(out, "\\{byte:02X}")),
        }
        out
    })
}

/// A value that needs no syntax of its own.
fn plain(value: &Value) -> Option<String> {
    let list = |items: Vec<String>| items.iter().map(|i| format!("{i};")).collect::<String>();
    Some(match value {
        Value::Bool(v) => v.to_string(),
        Value::Byte(v) => v.to_string(),
        Value::U16(v) => v.to_string(),
        Value::I32(v) => v.to_string(),
        Value::U32(v) => v.to_string(),
        Value::I64(v) => v.to_string(),
        Value::U64(v) => v.to_string(),
        Value::Str(v) => escape(v),
        Value::Bytes(v) => crate::scalar::mac_text(v),
        Value::Strs(v) => list(v.iter().map(|s| escape(s).replace(';', "\\;")).collect()),
        Value::U32s(v) => list(v.iter().map(ToString::to_string).collect()),
        Value::StrMap(_) | Value::Dict(_) | Value::Dicts(_) => return None,
    })
}

/// GKeyFile: line ends and leading blanks are written as escapes.
fn escape(text: &str) -> String {
    let mut out = text
        .replace('\\', "\\\\")
        .replace('\n', "\\n")
        .replace('\r', "\\r")
        .replace('\t', "\\t");
    if out.starts_with(' ') {
        out.replace_range(..1, "\\s");
    }
    out
}

fn text<'a>(d: &'a Dict, key: &str) -> Option<&'a str> {
    match d.get(key)? {
        Value::Str(s) => Some(s),
        _ => None,
    }
}

fn number(d: &Dict, key: &str) -> Option<u64> {
    match d.get(key)? {
        Value::Byte(v) => Some((*v).into()),
        Value::U16(v) => Some((*v).into()),
        Value::U32(v) => Some((*v).into()),
        Value::U64(v) => Some(*v),
        Value::I32(v) => u64::try_from(*v).ok(),
        Value::I64(v) => u64::try_from(*v).ok(),
        _ => None,
    }
}

fn address(d: &Dict) -> String {
    format!(
        "{}/{}",
        text(d, "address").unwrap_or_default(),
        number(d, "prefix").unwrap_or_default()
    )
}

/// `dest/prefix[,next-hop[,metric]]`
fn route(d: &Dict) -> String {
    let mut out = format!(
        "{}/{}",
        text(d, "dest").unwrap_or_default(),
        number(d, "prefix").unwrap_or_default()
    );
    let (hop, metric) = (text(d, "next-hop"), number(d, "metric"));
    if let (Some(_), _) | (_, Some(_)) = (hop, metric) {
        let _ = write!(out, ",{}", hop.unwrap_or_default());
    }
    if let Some(metric) = metric {
        let _ = write!(out, ",{metric}");
    }
    out
}

/// Attributes of a route beyond destination, next hop and metric.
fn route_options(d: &Dict) -> String {
    let rest = d
        .iter()
        .filter(|(k, _)| !matches!(k.as_str(), "dest" | "prefix" | "next-hop" | "metric"));
    let pairs: Vec<String> = rest.filter_map(|(k, v)| Some(format!("{k}={}", plain(v)?))).collect();
    pairs.join(",")
}

/// The syntax of ip-rule(8), as nm-settings-keyfile(5) says.
fn rule(d: &Dict, ipv6: bool) -> String {
    let mut words = vec![];
    if let Some(priority) = number(d, "priority") {
        words.push(format!("priority {priority}"));
    }
    let end = |side: &str, length: &str| {
        let prefix = number(d, length)?;
        Some(format!("{side} {}/{prefix}", text(d, side)?))
    };
    let any = if ipv6 { "::/0" } else { "0.0.0.0/0" };
    match (end("from", "from-len"), end("to", "to-len")) {
        (None, None) => words.push(format!("from {any}")),
        (from, to) => words.extend(from.into_iter().chain(to)),
    }
    if let Some(iif) = text(d, "iifname") {
        words.push(format!("iif {iif}"));
    }
    if let Some(mark) = number(d, "fwmark") {
        words.push(format!(
            "fwmark {mark:#x}/{:#x}",
            number(d, "fwmask").unwrap_or(0xffff_ffff)
        ));
    }
    // FR_ACT_*: 6 blackhole, 7 unreachable, 8 prohibit
    match number(d, "action") {
        Some(6) => words.push("blackhole".to_owned()),
        Some(7) => words.push("unreachable".to_owned()),
        Some(8) => words.push("prohibit".to_owned()),
        _ => words.extend(number(d, "table").map(|t| format!("table {t}"))),
    }
    if let Some(length) = number(d, "suppress-prefixlength") {
        words.push(format!("suppress_prefixlength {length}"));
    }
    words.join(" ")
}

fn span(first: Option<u64>, last: Option<u64>) -> String {
    match (first, last) {
        (Some(a), Some(b)) if a != b => format!("{a}-{b}"),
        (Some(a), _) | (None, Some(a)) => a.to_string(),
        (None, None) => String::new(),
    }
}

fn vlan(d: &Dict) -> String {
    let mut out = span(number(d, "vid-start"), number(d, "vid-end"));
    for flag in ["pvid", "untagged"] {
        if d.get(flag) == Some(&Value::Bool(true)) {
            let _ = write!(out, " {flag}");
        }
    }
    out
}

/// `vf.N=key=value …`
fn vf(d: &Dict) -> (String, String) {
    let index = number(d, "index").unwrap_or_default();
    let rest = d.iter().filter(|(k, _)| *k != "index");
    let mut words: Vec<String> = vec![];
    for (key, value) in rest {
        match value {
            Value::Dicts(vlans) => {
                let one = |v: &Dict| {
                    let mut out = number(v, "id").unwrap_or_default().to_string();
                    let qos = number(v, "qos").unwrap_or(0);
                    let ad = number(v, "protocol") == Some(1);
                    if qos != 0 || ad {
                        let _ = write!(out, ".{qos}");
                    }
                    if ad {
                        out.push_str(".ad");
                    }
                    out
                };
                words.push(format!("{key}={}", vlans.iter().map(one).collect::<Vec<_>>().join(";")));
            }
            value => words.extend(plain(value).map(|text| format!("{key}={text}"))),
        }
    }
    (format!("vf.{index}"), words.join(" "))
}

/// `file:///etc/x` and NUL on D-Bus is the bare path in the file.
fn file_path(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches('\0');
    text.strip_prefix("file://").unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_reads_as_networkmanager_writes_it() {
        let mut p = Profile::default();
        p.put("connection", "id", "br0");
        p.put("connection", "type", "bridge");
        p.put("connection", "autoconnect", true);
        p.ensure("bridge");
        p.put("802-3-ethernet", "cloned-mac-address", vec![2u8, 0, 0, 0, 0, 1]);
        p.put("ipv4", "method", "manual");
        let dict =
            |pairs: &[(&str, Value)]| -> Dict { pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect() };
        p.put(
            "ipv4",
            "address-data",
            vec![dict(&[("address", "192.0.2.1".into()), ("prefix", Value::U32(24))])],
        );
        p.put(
            "ipv4",
            "route-data",
            vec![dict(&[
                ("dest", "198.51.100.0".into()),
                ("prefix", Value::U32(24)),
                ("next-hop", "192.0.2.254".into()),
                ("metric", Value::U32(5)),
                ("table", Value::U32(100)),
            ])],
        );
        p.put("ipv4", "dns-search", vec!["a.example".to_owned()]);
        let keys = BTreeMap::from([("a=b".to_owned(), " c\\d\n".to_owned())]);
        p.put("ovs-external-ids", "data", keys);
        let want = "[connection]
id=br0
type=bridge

[ethernet]
cloned-mac-address=02:00:00:00:00:01

[bridge]

[ipv4]
address1=192.0.2.1/24
dns-search=a.example;
method=manual
route1=198.51.100.0/24,192.0.2.254,5
route1_options=table=100

[ovs-external-ids]
data.a\\3Db=\\sc\\\\d\\n
";
        assert_eq!(write(&p), want);
    }
}
