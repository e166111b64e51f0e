//! Every file in a folder under `tests/capture/` is a case of the capture language.
//!
//! `current` is the node (`tests/capture/current.yaml` where left out), `node` what templates may say of it, `capture` and `desired` are the policy.
//! `captured` is what the captures named there find, `filled` the desired state that comes out, `error` what is said instead; its `kind` is PolicyError where left out.

mod common;

use std::path::{Path, PathBuf};

use netwright::capture::{Captured, Expressions, Node, Policy, evaluate, fill};
use netwright::error::Invalid;
use netwright::yaml;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(default)]
    current: Option<Value>,
    #[serde(default)]
    node: Value,
    #[serde(default)]
    capture: Map<String, Value>,
    #[serde(default)]
    desired: Value,
    #[serde(default)]
    captured: Map<String, Value>,
    #[serde(default)]
    filled: Option<Value>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    kind: Option<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/capture")
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let value = yaml::read(&text).map_err(|e| e.to_string())?;
    serde_json::from_value(value).map_err(|e| e.to_string())
}

fn node(case: &Value) -> Node {
    let words = |key: &str| serde_json::from_value(case[key].clone()).unwrap_or_default();
    Node {
        name: case["name"].as_str().unwrap_or("node01").to_owned(),
        labels: words("labels"),
        annotations: words("annotations"),
    }
}

/// What comes of a case: captured and filled.
fn outcome(case: &Case, current: &Value) -> Result<(Captured, Value), Invalid> {
    let document = json!({"capture": case.capture, "desired": case.desired});
    let policy = Policy::from_json(document)?;
    let node = node(&case.node);
    let captured = evaluate(&policy.capture, current, &node)?;
    let filled = policy.render_with(&captured, &node)?;
    Ok((captured, filled))
}

fn check(path: &Path, usual: &Value) -> Result<(), String> {
    let case: Case = read(path)?;
    let (captured, filled) = match (outcome(&case, case.current.as_ref().unwrap_or(usual)), &case.error) {
        (Err(fault), Some(error)) if fault.to_string() == *error => {
            let kind = fault.kind.to_string();
            return match case.kind.as_deref().unwrap_or("PolicyError") == kind {
                true => Ok(()),
                false => Err(format!("refused as {kind}")),
            };
        }
        (Err(fault), _) => return Err(format!("refused:\n{fault}")),
        (Ok((captured, filled)), Some(_)) => {
            return Err(format!("accepted: {} {filled}", captured.to_json()));
        }
        (Ok(got), None) => got,
    };
    if case.captured.is_empty() && case.filled.is_none() {
        return Err("the case says nothing: it needs captured, filled or error".to_owned());
    }
    for (name, want) in &case.captured {
        let got = captured.state(name);
        if got != Some(want) {
            return Err(format!("{name} found {}", got.cloned().unwrap_or_default()));
        }
    }
    match case.filled {
        Some(want) if want != filled => Err(format!("filled {filled}")),
        _ => Ok(()),
    }
}

#[test]
fn cases_hold() {
    let usual: Value = read(&root().join("current.yaml")).expect("current.yaml");
    let mut files = common::cases("capture");
    files.retain(|path| path.parent() != Some(&root()));
    assert!(files.len() >= 100, "only {} cases found", files.len());
    let wrong = |path: &PathBuf| {
        let why = check(path, &usual).err()?;
        Some(format!(
            "{}: {why}",
            path.strip_prefix(root()).unwrap_or(path).display()
        ))
    };
    let failed: Vec<String> = files.iter().filter_map(wrong).collect();
    let (n, all, why) = (failed.len(), files.len(), failed.join("\n"));
    assert!(failed.is_empty(), "{n} of {all} cases failed\n{why}");
}

#[test]
fn captures_are_kept_and_given_back() {
    let usual: Value = read(&root().join("current.yaml")).expect("current.yaml");
    let expressions: Expressions = [(
        "gw".to_owned(),
        "routes.running.destination == \"0.0.0.0/0\"".to_owned(),
    )]
    .into();
    let found = evaluate(&expressions, &usual, &Node::default()).expect("there is a default route");
    let kept = found.clone().at("2026-01-02T03:04:05Z").to_json();
    let about = json!({"time": "2026-01-02T03:04:05Z", "version": "0"});
    assert_eq!(kept["gw"]["metaInfo"], about);
    assert_eq!(kept["gw"]["state"], usual_default_route());
    let back = Captured::from_json(kept).expect("its own form");
    let desired = json!("{{ capture.gw.routes.running.0.next-hop-interface }}");
    assert_eq!(fill(&desired, &back, &Node::default()), Ok(json!("eth0")));
    assert!(
        Captured::from_json(Value::Null)
            .expect("nothing is no captures")
            .is_empty()
    );
    assert!(Captured::from_json(json!({"gw": {"time": 1}})).is_err());
}

fn usual_default_route() -> Value {
    json!({"routes": {"running": [
        {"destination": "0.0.0.0/0", "next-hop-interface": "eth0", "next-hop-address": "192.0.2.1", "metric": 100, "table-id": 254}
    ]}})
}

#[test]
fn the_three_kinds_of_document() {
    let kubernetes = json!({"kind": "NodeNetworkConfigurationPolicy", "spec": {
        "capture": {"a": "all"}, "desiredState": {"interfaces": [{"name": "{{ capture.b.x }}"}]}
    }});
    let policy = Policy::from_json(kubernetes).expect("an NNCP");
    let fault = policy.render(&json!({}), &Node::default()).expect_err("there is no b");
    assert_eq!(fault.path, "spec.desiredState.interfaces[0].name");
    let faulty = json!({"kind": "NodeNetworkConfigurationPolicy", "spec": {"capture": {"a": "x.y"}}});
    let fault = Policy::from_json(faulty)
        .expect("it reads")
        .check(&Node::default())
        .expect_err("x is no keyword");
    assert_eq!(fault.path, "spec.capture.a");

    let plain = json!({"interfaces": [{"name": "eth1", "description": "{{ jinja }} }}"}]});
    let policy = Policy::from_json(plain.clone()).expect("a state");
    assert_eq!(
        policy.render(&Value::Null, &Node::default()),
        Ok(plain),
        "a state without our templates is left alone"
    );

    let own = json!({"capture": {"a": null}, "desiredState": {"x": "{{ capture.a.y }}"}, "current": {"y": 7}});
    let policy = Policy::from_json(own).expect("a policy with its state");
    assert_eq!(policy.render(&json!({"y": 8}), &Node::default()), Ok(json!({"x": 7})));
    for (wrong, path) in [
        (json!({"capture": {}, "interfaces": []}), "interfaces"),
        (json!({"desired": {}, "desiredState": {}}), "desired"),
        (json!({"capture": ["a"]}), "capture"),
        (json!({"capture": {"a": 1}}), "capture.a"),
    ] {
        assert_eq!(Policy::from_json(wrong).expect_err(path).path, path);
    }
}

#[test]
fn captures_that_multiply_are_stopped() {
    let list: Vec<Value> = (0..300).map(|i| json!({"name": format!("eth{i}")})).collect();
    let mut expressions = Expressions::from([("c0".to_owned(), String::new())]);
    for i in 1..9 {
        let text = format!("capture.c{0} | interfaces.x := capture.c{0}.interfaces", i - 1);
        expressions.insert(format!("c{i}"), text);
    }
    let fault = evaluate(&expressions, &json!({"interfaces": list}), &Node::default()).expect_err("300^8 entries");
    assert!(fault.reason.starts_with("captures grow to more than"), "{fault}");
}

#[test]
fn a_chain_of_captures_may_be_long() {
    let mut expressions = Expressions::from([("c0".to_owned(), "interfaces.name == eth0".to_owned())]);
    for i in 1..20_000 {
        expressions.insert(format!("c{i}"), format!("capture.c{} | interfaces.name == eth0", i - 1));
    }
    let found = evaluate(
        &expressions,
        &json!({"interfaces": [{"name": "eth0"}]}),
        &Node::default(),
    );
    assert!(found.expect("a chain").state("c19999").is_some());
}

#[test]
fn the_policy_command_captures_once_and_fills_in_again() {
    let dir = std::env::temp_dir().join(format!("nw-policy-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder under the temporary one");
    let put = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).expect("it is written");
        path.display().to_string()
    };
    let policy = put(
        "policy.yaml",
        "capture: {gw: routes.running.destination == \"0.0.0.0/0\", base: interfaces.name == capture.gw.routes.running.0.next-hop-interface}
desired: {interfaces: [{name: '{{ capture.base.interfaces.0.name }}', mac-address: '{{ capture.base.interfaces.0.mac-address }}', type: ethernet}]}",
    );
    let current = put(
        "current.yaml",
        "interfaces: [{name: eth0, type: ethernet, state: up, mac-address: 52:54:00:00:00:01, ipv4: {enabled: true, address: [{ip: 192.0.2.2, prefix-length: 24}]}}]
routes: {running: [{destination: 0.0.0.0/0, next-hop-interface: eth0, next-hop-address: 192.0.2.1}]}",
    );
    let nothing = put("nothing.yaml", "interfaces: []");
    let kept = dir.join("captured.json").display().to_string();
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_netwright"));
        let out = command.args(args).output().expect("netwright starts");
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (out.status.code(), said(&out.stdout), said(&out.stderr))
    };
    let want = json!({"interfaces": [{"name": "eth0", "type": "ethernet", "mac-address": "52:54:00:00:00:01"}]});
    let first = run(&["policy", &policy, "-c", &current, "--json", "-o", &kept]);
    assert_eq!(serde_json::from_str::<Value>(&first.1).ok(), Some(want), "{first:?}");
    let captured: Value = read(Path::new(&kept)).expect("what was captured");
    assert_eq!(captured["base"]["metaInfo"]["version"], "0");
    assert_eq!(captured["base"]["state"]["interfaces"][0]["name"], "eth0");
    let again = run(&["p", &policy, "-c", &nothing, "--json", "-a", &kept]);
    assert_eq!(again.1, first.1, "{again:?}");
    let (code, _, said) = run(&["policy", &policy, "-c", &nothing]);
    let fault = "capture.gw: not found: there is no routes.running";
    assert!(code == Some(65) && said.contains(fault), "{said}");
    assert_eq!(run(&["validate", &policy, "-c", &current]).0, Some(0));
    assert_eq!(run(&["validate", &policy, "-c", &nothing]).0, Some(65));
    assert_eq!(run(&["validate", &policy]).0, Some(0));
    std::fs::remove_dir_all(&dir).expect("it was there");
}

/// Texts made of what the language is made of.
fn expression() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "interfaces",
        "routes",
        "running",
        "config",
        "route-rules",
        "capture",
        "a",
        "b",
        ".",
        "..",
        "0",
        "7",
        "name",
        "=",
        "==",
        "!=",
        "!",
        ":=",
        ":",
        "|",
        "\"",
        "'",
        " ",
        "\u{a0}",
        "\n",
        "null",
        "{{",
        "}}",
        "node",
        "node.name",
        "labels[",
        "ß",
        "🦀",
        "\u{301}",
        "\0",
    ]);
    prop_oneof![
        prop::collection::vec(words, 0..12).prop_map(|w| w.concat()),
        "\\PC{0,40}"
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(a in expression(), b in expression(), template in expression()) {
        let current = json!({"interfaces": [{"name": "a", "0": [[1, null], {"name": ["b"]}]}, {"a": {"name": true}}], "routes": {"running": []}});
        let expressions = Expressions::from([("a".to_owned(), a.clone()), ("b".to_owned(), b)]);
        let node = Node { name: "ß.example".to_owned(), ..Node::default() };
        for captures in [&expressions, &Expressions::from([("a".to_owned(), a)])] {
            match evaluate(captures, &current, &node) {
                Err(fault) => prop_assert!(fault.reason.lines().count() == 3 && fault.reason.ends_with('^'), "{}", fault),
                Ok(found) => {
                    let _ = fill(&json!([template, format!("{{{{ capture.a.{template} }}}}")]), &found, &node);
                    prop_assert_eq!(Captured::from_json(found.to_json()), Ok(found));
                }
            }
        }
        let _ = fill(&json!(template), &Captured::default(), &node);
    }
}
