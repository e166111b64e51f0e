//! What the webhook says to policies: alone, over TLS, and asked by a real kube-apiserver.

mod common;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::Cluster;
use jiff::Timestamp;
use netwright::admission;
use netwright::admission::check::{Findings, policy};
use netwright::admission::review::{Outcome, Question, answer};
use netwright::state::NetworkState;
use netwright::yaml;
use serde_json::{Value, json};

/// A spec in YAML.
fn said(spec: &str) -> Findings {
    policy("p", &yaml::read(spec).expect("it is YAML").to_string())
}

fn document(desired: &str) -> Findings {
    policy(
        "p",
        &json!({"desiredState": yaml::read(desired).expect("it is YAML")}).to_string(),
    )
}

fn faults(found: &Findings) -> Vec<String> {
    found.faults.iter().map(ToString::to_string).collect()
}

#[test]
fn a_fault_that_no_node_could_live_with_has_its_path() {
    for (desired, path) in [
        (
            "interfaces: [{name: br0, type: linux-bridge, bridge: {prot: []}}]",
            "interfaces[br0].bridge.prot",
        ),
        (
            "interfaces: [{name: eth1, type: ethernet, mtu: big}]",
            "interfaces[eth1].mtu",
        ),
        (
            "interfaces: [{name: eth1, type: ethernet, ipv4: {enabled: true, address: [{ip: 1.2.3, prefix-length: 24}]}}]",
            "interfaces[eth1].ipv4.address[0].ip",
        ),
        (
            "interfaces: [{name: eth1.5000, type: vlan, vlan: {base-iface: eth1, id: 5000}}]",
            "interfaces[eth1.5000].vlan.id",
        ),
        (
            "interfaces: [{name: this-name-is-too-long, type: linux-bridge}]",
            "interfaces[this-name-is-too-long].name",
        ),
        (
            "interfaces: [{name: br0, type: linux-bridge, bridge: {port: [{name: a}]}}, {name: br1, type: linux-bridge, bridge: {port: [{name: a}]}}]",
            "interfaces[br1]",
        ),
        ("interface: []", "interface"),
        (
            "routes: {config: [{destination: 10.0.0.0/8, next-hop-address: 192.0.2.1}]}",
            "routes.config[0].next-hop-interface",
        ),
        ("dns-resolver: {config: {server: [x]}}", "dns-resolver.config.server[0]"),
        ("hostname: {config: 'not a name'}", "hostname.config"),
        ("[]", ""),
    ] {
        let found = document(desired);
        let fault = faults(&found);
        let want = format!("spec.desiredState.{path}");
        assert!(
            fault.len() == 1 && fault[0].starts_with(want.trim_end_matches('.')),
            "{desired}: {found:?}"
        );
    }
}

#[test]
fn what_depends_on_the_node_is_a_warning() {
    // a bond that is there has a mode
    let found = document("interfaces: [{name: bond0, type: bond, state: up, link-aggregation: {port: [eth1]}}]");
    assert_eq!(faults(&found), [""; 0]);
    assert!(
        found.warnings[0].contains("spec.desiredState.interfaces[bond0].link-aggregation.mode"),
        "{found:?}"
    );
    assert!(
        found.warnings[0].ends_with("(unless the node makes up for it)"),
        "{found:?}"
    );
    // a card may have its address already
    let found = document("interfaces: [{name: eth1, type: ethernet, ipv4: {enabled: true}}]");
    assert_eq!(faults(&found), [""; 0]);
    assert!(found.warnings[0].contains("interfaces[eth1].ipv4.enabled"), "{found:?}");
    let found = document(
        "interfaces: [{name: bond0, type: bond, state: up, link-aggregation: {mode: active-backup, port: [eth1], options: {arp_missed_max: 3, arp_interval: 100, arp_ip_target: 192.0.2.1}}}]",
    );
    assert_eq!(faults(&found), [""; 0]);
    assert!(
        found.warnings.iter().any(|w| w.contains("needs NetworkManager 1.44")),
        "{found:?}"
    );
}

#[test]
fn ordinary_policies_pass_without_a_word() {
    for desired in [
        "{}",
        "interfaces: [{name: br0, type: linux-bridge, state: up, bridge: {options: {stp: {enabled: false}}, port: [{name: eth1}]}}]",
        "interfaces: [{name: br0, type: linux-bridge, state: absent}]",
        "interfaces: [{name: eth1, type: ethernet, state: up, ipv4: {enabled: true, dhcp: true}}]",
        "route-rules: {config: [{ip-from: 192.0.2.0/24, route-table: 200, priority: 1000}]}",
        "dns-resolver: {config: {server: [192.0.2.53], search: [example.org]}}",
        "dns-resolver: {config: {search: [example.org]}}",
        "routes: {config: [{destination: 198.51.100.0/24, next-hop-address: 192.0.2.1, next-hop-interface: eth1, state: absent}]}",
    ] {
        assert_eq!(document(desired), Findings::default(), "{desired}");
    }
    for nothing in [json!({}), Value::Null] {
        assert_eq!(policy("p", &nothing.to_string()), Findings::default());
    }
}

#[test]
fn captures_are_checked_with_a_caret_and_templates_by_name() {
    let found = said(
        "{capture: {gw: 'routes.running.destination = \"0.0.0.0/0\"', a: capture.b, b: capture.a}, desiredState: {}}",
    );
    let text = faults(&found).join("\n");
    assert!(text.starts_with("spec.capture."), "{text}");
    let found = said("{capture: {gw: 'routes.running.destination =='}, desiredState: {}}");
    assert!(
        faults(&found)[0].contains("\n| routes.running.destination =="),
        "{found:?}"
    );
    let found = said(
        "{capture: {gw: 'routes.running.destination == \"0.0.0.0/0\"'}, desiredState: {interfaces: [{name: br0, type: linux-bridge, mac-address: '{{ capture.gv.routes.running.0 }}'}]}}",
    );
    let text = faults(&found).join("\n");
    assert!(
        text.starts_with("spec.desiredState.interfaces[br0].mac-address") && text.contains("there is no capture 'gv'"),
        "{text}"
    );
    let found = said("{desiredState: {interfaces: [{name: br0, type: linux-bridge, description: '{{ node.nam }}'}]}}");
    assert!(faults(&found)[0].contains("none of node.name"), "{found:?}");
}

#[test]
fn what_a_node_fills_in_is_not_known_and_the_rest_is_checked() {
    let passes = r#"
capture:
  default-gw: routes.running.destination == "0.0.0.0/0"
  base: interfaces.name == capture.default-gw.routes.running.0.next-hop-interface
  mine: 'interfaces.name == "{{ node.labels["nic"] }}"'
desiredState:
  interfaces:
  - name: br1
    type: linux-bridge
    state: up
    mac-address: '{{ capture.base.interfaces.0.mac-address }}'
    ipv4: '{{ capture.base.interfaces.0.ipv4 }}'
    bridge: {port: [{name: '{{ capture.base.interfaces.0.name }}'}]}
  - name: eth9
    type: ethernet
    state: up
    mtu: '{{ node.annotations["mtu"] }}'
    ipv4: {enabled: true, dhcp: false, address: [{ip: '{{ node.labels["ip"] }}', prefix-length: 24}]}
  - {name: '{{ capture.mine.interfaces.0.name }}', type: '{{ capture.mine.interfaces.0.type }}', bridge: {anything: goes}}
  - {name: '{{ node.labels["nic"] }}.7', type: vlan, vlan: {base-iface: '{{ node.labels["nic"] }}', id: 7}}
  routes: {config: [{destination: '{{ node.labels["net"] }}', next-hop-interface: eth9, next-hop-address: 192.0.2.1}]}
  dns-resolver: {config: {server: ['{{ node.labels["dns"] }}'], search: [example.org]}}
"#;
    assert_eq!(said(passes), Findings::default());
    for (desired, path) in [
        (
            "{interfaces: [{name: '{{ node.labels[\"nic\"] }}', type: ethernet, mtu: big}]}",
            "interfaces[{{ node.labels[\"nic\"] }}].mtu",
        ),
        (
            "{interfaces: [{name: br0, type: linux-bridge, description: '{{ node.name }}', brige: {}}]}",
            "interfaces[br0].brige",
        ),
        (
            "{interfaces: [{name: br0, type: linux-bridge, description: '{{ node.name }}', bridge: {port: [{nam: eth1}]}}]}",
            "interfaces[br0].bridge.port[0]",
        ),
        (
            "{routes: {config: [{destination: '{{ node.labels[\"a\"] }}', next-hop-interface: e}, {destination: 10.0.0.0/8, next-hop-interface: e, metric: x}]}}",
            "routes.config[1].metric",
        ),
        (
            "{routes: {config: [{destination: 10.0.0.0/8, next-hop-interface: e}, {destination: '{{ node.labels[\"a\"] }}', next-hop-interface: e, metric: x}]}}",
            "routes.config[1].metric",
        ),
        ("{interfaces: '{{ node.name }}', interface: []}", "interface"),
        ("{hostname: {config: '{{ node.name }}', runing: x}}", "hostname"),
    ] {
        let found = document(desired);
        let fault = faults(&found);
        assert!(
            fault.len() == 1 && fault[0].starts_with(&format!("spec.desiredState.{path}")),
            "{desired}: {found:?}"
        );
    }
}

#[test]
fn what_is_around_the_document_is_checked_too() {
    for (spec, want) in [
        (
            "nodeSelector: {a: 'no value'}",
            "spec.nodeSelector.a: nodeSelector values must be valid label values",
        ),
        (
            "selector: {matchExpressions: [{key: a, operator: Inn, values: [b]}]}",
            "spec.selector.matchExpressions[0]: the operator is one of",
        ),
        (
            "selector: {matchExpressions: [{key: a, operator: In}]}",
            "spec.selector.matchExpressions[0]: In and NotIn need values",
        ),
        (
            "probes: [{name: storage}]",
            "spec.probes[0].name: there is no probe 'storage'",
        ),
        ("probes: [{name: dns, tcp: {host: a, port: 1}}]", "spec.probes[0].name"),
        ("mode: Destroy", "spec.mode"),
    ] {
        let found = said(spec);
        assert!(faults(&found).iter().any(|f| f.starts_with(want)), "{spec}: {found:?}");
    }
    for (width, warns) in [
        ("50%", false),
        ("3", false),
        ("'42'", true),
        ("asdf", true),
        ("0", true),
        ("0%", false),
    ] {
        assert_eq!(
            !said(&format!("maxUnavailable: {width}")).warnings.is_empty(),
            warns,
            "{width}"
        );
    }
    let long = "n".repeat(64);
    for name in [long.as_str(), "-x", "a_"] {
        let text = faults(&policy(name, "{}")).join("\n");
        let want =
            format!("invalid policy name: \"{name}\": must be no more than 63 characters or match label value format");
        assert_eq!(text, want);
    }
}

/// The cases of tests/golden.rs are wishes for particular nodes. One that its node takes must not be refused here.
#[test]
fn nothing_is_refused_that_some_node_takes() {
    let (mut taken, mut refused, mut wrong) = (0, 0, vec![]);
    for file in common::cases("golden") {
        let case = yaml::read(&std::fs::read_to_string(&file).expect("a case")).expect("it is YAML");
        let text = case["desired"].to_string();
        let read = NetworkState::from_text(&text, |_| ());
        assert_eq!(
            read,
            NetworkState::from_json(case["desired"].clone()),
            "{}",
            file.display()
        );
        let found = policy("p", &json!({"desiredState": case["desired"]}).to_string());
        match (case.get("error"), found.faults.first()) {
            (None, Some(fault)) => wrong.push(format!("{}: {fault}", file.display())),
            (None, None) => taken += 1,
            (Some(_), Some(fault)) => {
                refused += 1;
                println!("{}: {fault}", file.display());
            }
            (Some(_), None) => {}
        }
    }
    println!("{taken} pass, {refused} are refused");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(taken > 200 && refused > 50, "{taken} pass, {refused} are refused");
}

fn review(operation: &str, object: Value, old: Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "nmstate.io", "version": "v1", "kind": "NodeNetworkConfigurationPolicy"},
            "resource": {"group": "nmstate.io", "version": "v1", "resource": "nodenetworkconfigurationpolicies"},
            "name": "p", "operation": operation, "userInfo": {}, "object": object, "oldObject": old, "dryRun": false, "options": null,
        },
    })
}

fn object(spec: Value) -> Value {
    json!({"apiVersion": "nmstate.io/v1", "kind": "NodeNetworkConfigurationPolicy", "metadata": {"name": "p"}, "spec": spec})
}

fn asked(question: Question, review: &Value) -> (Value, Outcome) {
    let now = Timestamp::from_second(1_800_000_000).expect("a time");
    let (answer, outcome) = answer(question, review.to_string().as_bytes(), now).expect("it is a review");
    (
        serde_json::to_value(answer).expect("it can be written")["response"].clone(),
        outcome,
    )
}

#[test]
fn answers_are_of_the_form_that_an_apiserver_reads() {
    let wrong = object(json!({"desiredState": {"interface": []}}));
    let (response, outcome) = asked(Question::Validate, &review("CREATE", wrong.clone(), Value::Null));
    assert_eq!(
        (outcome, &response["allowed"], &response["status"]["code"]),
        (Outcome::Denied, &json!(false), &json!(422))
    );
    assert_eq!(response["uid"], "705ab4f5-6393-11e8-b7cc-42010a800002");
    assert!(
        response["status"]["message"]
            .as_str()
            .unwrap()
            .starts_with("spec.desiredState.interface: unknown key"),
        "{response}"
    );
    // an old sin does not keep anybody from labelling, nor from deleting
    let (response, _) = asked(Question::Validate, &review("UPDATE", wrong.clone(), wrong.clone()));
    assert_eq!(response["allowed"], true);
    let (response, _) = asked(Question::Validate, &review("DELETE", Value::Null, wrong.clone()));
    assert_eq!(response["allowed"], true);
    let odd = object(json!({"maxUnavailable": "42"}));
    let (response, outcome) = asked(Question::Validate, &review("UPDATE", odd, wrong));
    assert_eq!((outcome, &response["allowed"]), (Outcome::Warned, &json!(true)));
    assert!(
        response["warnings"][0]
            .as_str()
            .unwrap()
            .starts_with("spec.maxUnavailable"),
        "{response}"
    );
    for body in [
        "",
        "{",
        "[]",
        "{}",
        "null",
        "{\"kind\": \"AdmissionReview\", \"apiVersion\": \"admission.k8s.io/v1\"}",
    ] {
        assert!(
            answer(Question::Validate, body.as_bytes(), Timestamp::UNIX_EPOCH).is_err(),
            "{body}"
        );
    }
}

#[test]
fn a_write_is_noted_and_one_that_changes_nothing_stays_one() {
    let patch = |response: &Value| -> Value {
        let Some(bytes) = response["patch"].as_array() else {
            return decode(response["patch"].as_str().unwrap_or_default());
        };
        let bytes: Vec<u8> = bytes.iter().map(|b| b.as_u64().unwrap() as u8).collect();
        serde_json::from_slice(&bytes).unwrap()
    };
    let note = "1800000000000000000";
    let key = "/metadata/annotations/nmstate.io~1webhook-mutating-timestamp";
    let (response, _) = asked(Question::Mutate, &review("CREATE", object(json!({})), Value::Null));
    assert_eq!(
        patch(&response),
        json!([{"op": "add", "path": "/metadata/annotations", "value": {}}, {"op": "add", "path": key, "value": note}])
    );
    let mut old = object(json!({"priority": 1}));
    old["metadata"]["annotations"] = json!({"nmstate.io/webhook-mutating-timestamp": "17"});
    let (response, _) = asked(Question::Mutate, &review("UPDATE", old.clone(), old.clone()));
    assert_eq!(response.get("patch"), None, "{response}");
    // replaced without the note
    let (response, _) = asked(
        Question::Mutate,
        &review("UPDATE", object(json!({"priority": 1})), old.clone()),
    );
    assert_eq!(patch(&response)[1]["value"], "17");
    let mut new = old.clone();
    new["spec"]["priority"] = json!(2);
    let (response, _) = asked(Question::Mutate, &review("UPDATE", new, old));
    assert_eq!(patch(&response), json!([{"op": "add", "path": key, "value": note}]));
}

fn decode(base64: &str) -> Value {
    let bytes: k8s_openapi::ByteString = serde_json::from_value(json!(base64)).unwrap();
    serde_json::from_slice(&bytes.0).unwrap_or_default()
}

/// A policy of about a megabyte: bridges and VLANs, each with an address.
fn large() -> Value {
    let mut interfaces = vec![];
    let mut i = 0;
    while serde_json::to_vec(&interfaces).map_or(0, |v| v.len()) < 1_000_000 {
        for _ in 0..200 {
            interfaces.push(json!({
                "name": format!("eth1.{i}"), "type": "vlan", "state": "up", "description": "made for the size of it, as generators make them",
                "vlan": {"base-iface": format!("eth{}", 1 + i / 4000), "id": 1 + i % 4000},
                "ipv4": {"enabled": true, "dhcp": false, "address": [{"ip": format!("10.{}.{}.1", i / 250, i % 250), "prefix-length": 24}]},
                "ipv6": {"enabled": false},
            }));
            i += 1;
        }
    }
    json!({"desiredState": {"interfaces": interfaces}})
}

#[test]
fn a_megabyte_is_answered() {
    let text = review("CREATE", object(large()), Value::Null).to_string();
    let begin = Instant::now();
    let (_, outcome) = answer(Question::Validate, text.as_bytes(), Timestamp::now()).expect("it is a review");
    println!(
        "{} bytes: {outcome:?} in {:?} (this build)",
        text.len(),
        begin.elapsed()
    );
    // it says that the nodes must look at how its parts go together
    assert_eq!(outcome, Outcome::Warned);
    let mut wrong = large();
    wrong["desiredState"]["interfaces"][3000]["vlan"]["idd"] = json!(7);
    let (response, outcome) = asked(Question::Validate, &review("CREATE", object(wrong), Value::Null));
    assert_eq!(outcome, Outcome::Denied);
    let message = response["status"]["message"].as_str().expect("a message");
    assert!(
        message.starts_with("spec.desiredState.interfaces[eth1.3000].vlan.idd"),
        "{message}"
    );
}

/// `kubectl apply` of a policy: whether it was taken, and all that was said.
fn apply(cluster: &Cluster, name: &str, spec: &str) -> (bool, String) {
    let manifest = format!(
        "apiVersion: nmstate.io/v1\nkind: NodeNetworkConfigurationPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    );
    let file = cluster.dir.0.join(format!("{name}.yaml"));
    std::fs::write(&file, manifest).expect("the manifest is written");
    let out = cluster
        .verb("kubectl")
        .arg("apply")
        .arg("-f")
        .arg(file)
        .output()
        .expect("kubectl");
    (out.status.success(), common::said(&out))
}

fn eventually(what: &str, cluster: &Cluster, holds: impl FnMut() -> bool) {
    common::wait_for(what, Duration::from_secs(60), holds, || cluster.log("controller.log"));
}

/// Where the Service leads: there is nobody in the bed who would look for pods.
const ENDPOINTS: &str = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: netwright-webhook, namespace: nmstate, labels: {kubernetes.io/service-name: netwright-webhook}}
addressType: IPv4
endpoints: [{addresses: [10.99.1.1], conditions: {ready: true}}]
ports: [{name: webhook, port: 8443, protocol: TCP}]
";
const WRONG: &str = "{desiredState: {interfaces: [{name: br0, type: linux-bridge, bridge: {prot: []}}]}}";

fn refuses(cluster: &Cluster) -> bool {
    let (taken, said) = apply(cluster, "wrong", WRONG);
    if taken {
        cluster.kubectl(&["delete", "nncp", "wrong"]);
    }
    !taken && said.contains("spec.desiredState.interfaces[br0].bridge.prot: unknown")
}

fn secret(cluster: &Cluster, key: &str) -> String {
    let path = format!("jsonpath={{.data.{}}}", key.replace('.', "\\."));
    cluster.kubectl(&[
        "-n",
        "nmstate",
        "get",
        "secret",
        "netwright-webhook",
        "--ignore-not-found",
        "-o",
        &path,
    ])
}

fn bundle(cluster: &Cluster, kind: &str) -> String {
    cluster.kubectl(&[
        "get",
        kind,
        "netwright",
        "-o",
        "jsonpath={.webhooks[0].clientConfig.caBundle}",
    ])
}

/// The manifests as shipped, the rights of the controller's own service account, and an apiserver that calls it.
#[test]
fn an_apiserver_asks_and_certificates_change_unseen() {
    if !common::may_run() {
        return;
    }
    let cluster = Cluster::up("1");
    cluster.kubectl_apply(ENDPOINTS);
    // nobody answers: policies can be written all the same
    let begin = Instant::now();
    let (taken, said) = apply(&cluster, "early", WRONG);
    assert!(taken, "a dead webhook keeps people from writing: {said}");
    println!("a write past a dead webhook took {:?}", begin.elapsed());

    common::must(cluster.verb("controller").args([
        "--ca-rotate-interval=60s",
        "--ca-overlap-interval=30s",
        "--cert-rotate-interval=20s",
        "--cert-overlap-interval=10s",
    ]));
    eventually("the webhook refuses a wrong policy", &cluster, || refuses(&cluster));
    let (taken, said) = apply(&cluster, "fine", "{desiredState: {interfaces: []}}");
    assert!(taken && !said.contains("Warning"), "{said}");
    let note = |name: &str| {
        let path = "jsonpath={.metadata.annotations.nmstate\\.io/webhook-mutating-timestamp}";
        cluster.kubectl(&["get", "nncp", name, "-o", path])
    };
    let first: i128 = note("fine").parse().expect("a time in nanoseconds");
    // the same again changes nothing, another spec does
    assert!(
        apply(&cluster, "fine", "{desiredState: {interfaces: []}}")
            .1
            .contains("unchanged")
    );
    assert!(apply(&cluster, "fine", "{priority: 1, desiredState: {interfaces: []}}").0);
    assert!(note("fine").parse::<i128>().expect("a time") > first);
    let (taken, said) = apply(&cluster, "odd", "{maxUnavailable: '42'}");
    assert!(
        taken && said.contains("Warning: spec.maxUnavailable: '42' is neither"),
        "{said}"
    );
    // what was stored before can be labelled and deleted
    cluster.kubectl(&["label", "nncp", "early", "a=b"]);
    cluster.kubectl(&["delete", "nncp", "early"]);
    for version in ["v1beta1", "v1alpha1"] {
        let old = format!(
            "apiVersion: nmstate.io/{version}\nkind: NodeNetworkConfigurationPolicy\nmetadata: {{name: old}}\nspec: {WRONG}\n"
        );
        let file = cluster.dir.0.join("old.yaml");
        std::fs::write(&file, old).expect("the manifest is written");
        let out = cluster
            .verb("kubectl")
            .arg("create")
            .arg("-f")
            .arg(&file)
            .output()
            .expect("kubectl");
        assert!(
            !out.status.success() && common::said(&out).contains("bridge.prot"),
            "{version}: {}",
            common::said(&out)
        );
    }

    // one authority after the other, and never a moment in which the apiserver does not get through
    let (authority, pair) = (secret(&cluster, "ca.key"), secret(&cluster, "tls.crt"));
    assert_eq!(
        bundle(&cluster, "validatingwebhookconfigurations"),
        secret(&cluster, "ca.crt")
    );
    let mut seen = std::collections::BTreeSet::from([pair]);
    eventually("authority and certificate were changed", &cluster, || {
        assert!(
            refuses(&cluster),
            "a policy got past the webhook\n{}",
            cluster.log("controller.log")
        );
        seen.insert(secret(&cluster, "tls.crt"));
        secret(&cluster, "ca.key") != authority && seen.len() > 2
    });
    assert!(!cluster.log("controller.log").contains("panicked"));

    // whoever damages it finds it mended
    cluster.kubectl(&[
        "-n",
        "nmstate",
        "patch",
        "secret",
        "netwright-webhook",
        "--type=merge",
        "-p",
        "{\"data\": {\"ca.key\": \"eA==\"}}",
    ]);
    let clear = "[{\"op\": \"remove\", \"path\": \"/webhooks/0/clientConfig/caBundle\"}]";
    cluster.kubectl(&[
        "patch",
        "mutatingwebhookconfigurations",
        "netwright",
        "--type=json",
        "-p",
        clear,
    ]);
    eventually("the secret is mended", &cluster, || {
        secret(&cluster, "ca.key") != "eA=="
    });
    eventually("the bundles are mended", &cluster, || {
        let now = secret(&cluster, "ca.crt");
        ["validatingwebhookconfigurations", "mutatingwebhookconfigurations"]
            .iter()
            .all(|kind| bundle(&cluster, kind) == now)
    });
    eventually("the webhook refuses again", &cluster, || refuses(&cluster));
    cluster.kubectl(&["-n", "nmstate", "delete", "secret", "netwright-webhook"]);
    eventually("the secret is back", &cluster, || {
        !secret(&cluster, "tls.crt").is_empty()
    });
    eventually("the webhook refuses with it", &cluster, || refuses(&cluster));
}

/// One request over plain HTTP; the head of the answer.
async fn post(address: std::net::SocketAddr, path: &str, body: &[u8]) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("the head is sent");
    // a body that is too large is refused before all of it was sent
    let _ = stream.write_all(body).await;
    let mut answer = vec![];
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn what_is_no_review_is_answered_cleanly() {
    let told: Arc<Mutex<Vec<Outcome>>> = Arc::default();
    let observer = {
        let told = told.clone();
        Arc::new(move |outcome, _| told.lock().expect("a lock").push(outcome))
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, admission::router(observer)).await });
    let wrong = review(
        "CREATE",
        object(json!({"desiredState": {"interface": []}})),
        Value::Null,
    )
    .to_string();
    for (path, body, want) in [
        ("/validate", wrong.as_bytes(), "200 OK"),
        ("/validate", b"{".as_slice(), "400 Bad Request"),
        ("/mutate", b"\xff\xfe".as_slice(), "400 Bad Request"),
        ("/nothing", b"{}".as_slice(), "404 Not Found"),
    ] {
        let answer = post(address, path, body).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {want}")), "{path}: {answer}");
    }
    assert_eq!(
        *told.lock().expect("a lock"),
        [Outcome::Denied, Outcome::Error, Outcome::Error]
    );
    let answer = post(address, "/validate", &vec![b' '; 9 << 20]).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(
        post(address, "/validate", wrong.as_bytes())
            .await
            .contains("spec.desiredState.interface")
    );
}

fn pair(dir: &Path) -> Vec<u8> {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate");
    // as a kubelet does it: both at once, by a link that is replaced
    let fresh = dir.join(format!("..{}", uuid::Uuid::new_v4()));
    std::fs::create_dir(&fresh).expect("a folder");
    std::fs::write(fresh.join("tls.crt"), certificate.pem()).expect("written");
    std::fs::write(fresh.join("tls.key"), key.serialize_pem()).expect("written");
    std::os::unix::fs::symlink(&fresh, dir.join("..data_tmp")).expect("a link");
    std::fs::rename(dir.join("..data_tmp"), dir.join("..data")).expect("renamed");
    for name in ["tls.crt", "tls.key"] {
        let _ = std::os::unix::fs::symlink(Path::new("..data").join(name), dir.join(name));
    }
    certificate.der().to_vec()
}

/// The certificate that a server shows to a client that trusts it.
fn shown(port: u16, trusted: &[u8]) -> Option<Vec<u8>> {
    use std::io::Read;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.to_vec().into()).ok()?;
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut client = rustls::ClientConnection::new(Arc::new(config), "localhost".try_into().ok()?).ok()?;
    let mut tcp = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    tcp.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
    // there is nothing to read but the handshake
    let _ = rustls::Stream::new(&mut client, &mut tcp).read(&mut [0]);
    Some(client.peer_certificates()?.first()?.to_vec())
}

#[tokio::test]
async fn certificates_of_others_are_taken_from_a_folder_and_followed() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = common::Dir::new("certificates");
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("an address")
        .port();
    let client =
        kube::Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().expect("an address"))).expect("a client");
    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        all: admission::Config,
    }
    let folder = dir.0.to_string_lossy().into_owned();
    let address = format!("127.0.0.1:{port}");
    let flags =
        <Flags as clap::Parser>::parse_from(["x", "--webhook-address", &address, "--webhook-cert-dir", &folder]);
    // nothing is there yet
    let served =
        tokio::spawn(async move { admission::run(&flags.all, client, "nmstate", admission::unobserved()).await });
    for _ in ["first", "second", "third"] {
        let now = pair(&dir.0);
        let (looked, want) = (now.clone(), now);
        let found = tokio::task::spawn_blocking(move || {
            let end = Instant::now() + Duration::from_secs(30);
            while Instant::now() < end {
                if shown(port, &looked).is_some_and(|s| s == looked) {
                    return true;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            false
        });
        assert!(
            found.await.expect("it ends"),
            "the certificate {} bytes long is not shown",
            want.len()
        );
    }
    served.abort();
}
