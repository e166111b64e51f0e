//! Makes a state fit into etcd: first what goes without saying is dropped, then `ethtool`, then the ends of the longest lists. Pure.

use serde_json::{Map, Value};

/// Type of the condition that says what was left out.
pub const CONDITION: &str = "Truncated";

/// etcd takes 1.5 MiB at once, and the apiserver adds who owns which field.
const LIMIT: usize = 1 << 20;

/// Lists that may be cut, last of all.
const LISTS: [&str; 4] = [
    "/routes/running",
    "/routes/config",
    "/route-rules/config",
    "/interfaces",
];

/// What an interface has unless it is told otherwise: the kernel's numbers (`include/net/sock.h`, `net/bridge/br_device.c`, `br_multicast.c`).
const USUAL: [(&str, i64); 20] = [
    ("min-mtu", 68),
    ("max-mtu", 65535),
    ("group-forward-mask", 0),
    ("group-fwd-mask", 0),
    ("hash-max", 4096),
    ("mac-ageing-time", 300),
    ("multicast-last-member-count", 2),
    ("multicast-last-member-interval", 100),
    ("multicast-membership-interval", 26000),
    ("multicast-querier-interval", 25500),
    ("multicast-query-interval", 12500),
    ("multicast-query-response-interval", 1000),
    ("multicast-startup-query-count", 2),
    ("multicast-startup-query-interval", 3124),
    ("multicast-startup-query-interval", 3125),
    ("forward-delay", 15),
    ("hello-time", 2),
    ("max-age", 20),
    ("stp-path-cost", 100),
    ("stp-priority", 32),
];
const USUAL_WORDS: [(&str, &str); 4] = [
    ("group-addr", "01:80:C2:00:00:00"),
    ("multicast-router", "auto"),
    ("wait-ip", "any"),
    ("addr-gen-mode", "eui64"),
];

/// Leaves out what it must until the state fits, and says what that is; None where it fits as it is.
pub fn fit(state: &mut Value) -> Option<String> {
    fit_into(state, LIMIT)
}

fn fit_into(state: &mut Value, limit: usize) -> Option<String> {
    let whole = size(state);
    if whole <= limit {
        return None;
    }
    each_interface(state, drop_usual);
    let mut left_out = vec!["defaults of interfaces".to_owned()];
    if size(state) > limit {
        each_interface(state, |interface| {
            interface.remove("ethtool");
        });
        left_out.push("ethtool".to_owned());
    }
    while size(state) > limit {
        let too_much = size(state) - limit;
        match cut(state, too_much) {
            Some(what) => left_out.push(what),
            None => break,
        }
    }
    let left_out = left_out.join(", ");
    Some(format!(
        "the state has {whole} bytes and does not fit into etcd; left out: {left_out}"
    ))
}

fn size(value: &Value) -> usize {
    value.to_string().len()
}

fn each_interface(state: &mut Value, change: impl Fn(&mut Map<String, Value>)) {
    let interfaces = state.get_mut("interfaces").and_then(Value::as_array_mut);
    interfaces
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
        .for_each(change);
}

/// What is not there is off, empty, or as usual. `enabled` says so itself, and ethtool's features have no usual value.
fn drop_usual(map: &mut Map<String, Value>) {
    for (_, value) in map.iter_mut().filter(|(key, _)| *key != "ethtool") {
        match value {
            Value::Object(inner) => drop_usual(inner),
            Value::Array(list) => {
                list.iter_mut().filter_map(Value::as_object_mut).for_each(drop_usual);
            }
            _ => {}
        }
    }
    map.retain(|key, value| !is_usual(key, value));
}

fn is_usual(key: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on && key != "enabled",
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Number(n) => USUAL.iter().any(|(k, usual)| *k == key && n.as_i64() == Some(*usual)),
        Value::String(word) => USUAL_WORDS.contains(&(key, word.as_str())),
    }
}

/// Takes this many bytes from the end of the longest list.
fn cut(state: &mut Value, too_much: usize) -> Option<String> {
    let sizes = LISTS.iter().map(|at| (state.pointer(at).map_or(0, size), *at));
    let (_, at) = sizes.filter(|(bytes, _)| *bytes > "[]".len()).max()?;
    let list = state.pointer_mut(at)?.as_array_mut()?;
    let of = list.len();
    let mut gone = 0;
    while gone < too_much
        && let Some(entry) = list.pop()
    {
        gone += size(&entry) + ",".len();
    }
    let name = at.trim_start_matches('/').replace('/', ".");
    Some(format!("{} of {of} {name}", of - list.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(interfaces: usize, routes: usize) -> Value {
        let interface = |n| {
            json!({
                "name": format!("eth{n}"), "type": "ethernet", "state": "up", "mtu": 1500, "min-mtu": 68, "max-mtu": 9000,
                "accept-all-mac-addresses": false, "mptcp": {"address-flags": []}, "wait-ip": "any",
                "ipv4": {"enabled": false}, "ipv6": {"enabled": true, "dhcp": false, "address": [{"ip": "fe80::1", "prefix-length": 64}]},
                "ethtool": {"feature": {"rx-gro": false, "tx-gso-list": true}},
            })
        };
        let route =
            |n| json!({"destination": format!("10.{}.{}.0/24", n / 256, n % 256), "next-hop-interface": "eth0"});
        json!({
            "interfaces": (0..interfaces).map(interface).collect::<Vec<_>>(),
            "routes": {"running": (0..routes).map(route).collect::<Vec<_>>(), "config": []},
        })
    }

    #[test]
    fn what_fits_stays_as_it_is() {
        let mut state = node(3, 3);
        assert_eq!(fit(&mut state), None);
        assert_eq!(state, node(3, 3));
    }

    #[test]
    fn what_goes_without_saying_goes_first() {
        let mut state = node(100, 1);
        let limit = size(&state) - 100;
        let said = fit_into(&mut state, limit).unwrap();
        assert!(said.ends_with("left out: defaults of interfaces"), "{said}");
        let want = json!({
            "name": "eth7", "type": "ethernet", "state": "up", "mtu": 1500, "max-mtu": 9000,
            "ipv4": {"enabled": false}, "ipv6": {"enabled": true, "address": [{"ip": "fe80::1", "prefix-length": 64}]},
            "ethtool": {"feature": {"rx-gro": false, "tx-gso-list": true}},
        });
        assert_eq!(state["interfaces"][7], want);
        assert_eq!(state["interfaces"].as_array().unwrap().len(), 100);
    }

    #[test]
    fn then_ethtool_and_then_the_ends_of_lists() {
        let mut state = node(100, 1);
        let limit = size(&state) * 6 / 10;
        let said = fit_into(&mut state, limit).unwrap();
        assert!(said.ends_with("left out: defaults of interfaces, ethtool"), "{said}");
        assert!(size(&state) <= limit && state["interfaces"][0].get("ethtool").is_none());

        // VLANs and routes beyond any measure
        let mut state = node(9000, 30000);
        let said = fit(&mut state).unwrap();
        assert!(size(&state) <= LIMIT, "{}", size(&state));
        assert!(said.contains(" of 30000 routes.running"), "{said}");
        let shown = state["routes"]["running"].as_array().unwrap().len();
        assert!(
            state["interfaces"].as_array().unwrap().len() > 1000 && shown < 30000,
            "{said}"
        );
        assert!(said.len() < 500);
    }
}
