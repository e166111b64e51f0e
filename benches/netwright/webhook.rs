//! How long somebody waits for the admission webhook's answer to a policy of 1 MB.

use std::time::Instant;

use jiff::Timestamp;
use netwright::admission::{Outcome, Question, review};
use serde_json::{Value, json};

/// What is asked of it at most, in seconds.
const TARGET: f64 = 0.05;

pub fn main() {
    // what may be laid out at most, each with many addresses; and so many that only the text is checked
    for (interfaces, addresses) in [(500, 44), (3400, 2)] {
        let body = review_of(interfaces, addresses);
        let times = (0..7).map(|_| {
            let begin = Instant::now();
            let (_, outcome) = review::answer(Question::Validate, &body, Timestamp::now()).expect("a review");
            assert!(matches!(outcome, Outcome::Allowed | Outcome::Warned), "{outcome:?}");
            begin.elapsed().as_secs_f64()
        });
        let mut times: Vec<f64> = times.collect();
        times.sort_by(f64::total_cmp);
        println!(
            "webhook, {interfaces:4} interfaces in {:.1} MB{:9}{:.3} s    {}",
            body.len() as f64 / 1e6,
            "",
            times[times.len() / 2],
            super::verdict(times[times.len() / 2], TARGET, " s")
        );
    }
}

fn bridge(number: usize, addresses: usize) -> Value {
    let addresses: Vec<Value> = (0..addresses)
        .map(|i| json!({"ip": format!("10.{}.{}.{i}", number / 250, number % 250), "prefix-length": 24}))
        .collect();
    json!({"name": format!("nb{number}"), "type": "linux-bridge", "state": "up", "description": "one of the bridges of the virtual machines",
        "ipv4": {"enabled": true, "dhcp": false, "address": addresses}, "bridge": {"options": {"stp": {"enabled": false}}, "port": []}})
}

fn review_of(interfaces: usize, addresses: usize) -> Vec<u8> {
    let desired: Vec<Value> = (0..interfaces).map(|i| bridge(i, addresses)).collect();
    let kind = json!({"group": "nmstate.io", "version": "v1", "kind": "NodeNetworkConfigurationPolicy"});
    let resource = json!({"group": "nmstate.io", "version": "v1", "resource": "nodenetworkconfigurationpolicies"});
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "kind": kind, "resource": resource, "name": "many", "operation": "CREATE",
        "userInfo": {}, "object": {"apiVersion": "nmstate.io/v1", "kind": "NodeNetworkConfigurationPolicy", "metadata": {"name": "many"},
        "spec": {"desiredState": {"interfaces": desired}}}}});
    serde_json::to_vec(&review).expect("JSON")
}
