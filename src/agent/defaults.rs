//! What a policy from the cluster means without saying it: trunk VLANs on bridge ports. Pure.

use serde_json::{Value, json};

/// Every port without `vlan` of a linux-bridge that is up lets VLANs 2–4094 through, unless VLAN filtering is switched off. Says whether there was one.
pub fn default_bridge_vlans(state: &mut Value) -> bool {
    let interfaces = state.get_mut("interfaces").and_then(Value::as_array_mut);
    let filled = |any: bool, interface: &mut Value| default_vlans_of(interface) || any;
    interfaces.into_iter().flatten().fold(false, filled)
}

/// The same of one entry of `interfaces`.
pub fn default_vlans_of(interface: &mut Value) -> bool {
    let is = |key: &str, want: &str| interface.get(key).and_then(Value::as_str).is_some_and(|v| v == want);
    let up = interface.get("state").is_none() || is("state", "up");
    if !(is("type", "linux-bridge") && up) {
        return false;
    }
    let Some(bridge) = interface.get_mut("bridge") else {
        return false;
    };
    if bridge.get("options").and_then(|o| o.get("vlan-filtering")) == Some(&Value::Bool(false)) {
        return false;
    }
    let mut any = false;
    for key in ["port", "ports"] {
        let ports = bridge.get_mut(key).and_then(Value::as_array_mut);
        for port in ports
            .into_iter()
            .flatten()
            .filter_map(Value::as_object_mut)
            .filter(|p| !p.contains_key("vlan"))
        {
            port.insert(
                "vlan".into(),
                json!({"mode": "trunk", "trunk-tags": [{"id-range": {"min": 2, "max": 4094}}]}),
            );
            any = true;
        }
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> Value {
        let mut state = crate::yaml::read(text).unwrap();
        default_bridge_vlans(&mut state);
        state["interfaces"][0]["bridge"]["port"].clone()
    }

    #[test]
    fn only_ports_that_say_nothing_get_vlans() {
        let got =
            ports("interfaces: [{name: b, type: linux-bridge, bridge: {port: [{name: a}, {name: c, vlan: {}}]}}]");
        assert_eq!(got[0]["vlan"]["trunk-tags"][0]["id-range"]["max"], 4094);
        assert_eq!(got[1]["vlan"], json!({}));
        for (other, options) in [
            ("type: ovs-bridge", "{}"),
            ("type: linux-bridge, state: absent", "{}"),
            ("type: linux-bridge", "{vlan-filtering: false}"),
        ] {
            let got = ports(&format!(
                "interfaces: [{{name: b, {other}, bridge: {{options: {options}, port: [{{name: a}}]}}}}]"
            ));
            assert_eq!(got, json!([{"name": "a"}]), "{other}");
        }
    }
}
