//! No way out of the program tells a secret: not what it prints, logs, writes or publishes.

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{NETWRIGHT, Node, may_run, said};
use netwright::host::fake::FakeHost;
use netwright::observation::Observation;
use netwright::plan::plan;
use netwright::probe::Prober;
use netwright::state::{HIDDEN, NetworkState};
use netwright::transaction::{Options, run};
use netwright::yaml;
use serde_json::Value;

const CAK: &str = "50b71a8ef0bd5751ea76de6d6c98c03a";
const OTHER_CAK: &str = "60b71a8ef0bd5751ea76de6d6c98c03b";
const KEY: &str = "YAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
const SHARED: &str = "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE=";
const OTHER_SHARED: &str = "GpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE=";
const PEER: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
const PSK: &str = "JjyNzrnHTnMqzloKaMuq2uCf";
const PASSWORD: &str = "correct-horse";
const KEY_PASSWORD: &str = "battery-staple";
const NUMBER: &str = "31415926535897";

const ALL: [&str; 9] = [
    CAK,
    OTHER_CAK,
    KEY,
    SHARED,
    OTHER_SHARED,
    PSK,
    PASSWORD,
    KEY_PASSWORD,
    NUMBER,
];

fn wish(cak: &str, shared: &str) -> String {
    format!(
        "interfaces:
- {{name: eth2, type: ethernet}}
- {{name: m0, type: macsec, macsec: {{base-iface: eth2, mka-cak: {cak}, mka-ckn: f2b4}}}}
- {{name: wg0, type: wireguard, wireguard: {{private-key: {KEY}, peers: [{{public-key: {PEER}, preshared-key: {shared}}}]}}}}
- {{name: vpn0, type: ipsec, libreswan: {{right: 192.0.2.7, psk: {PSK}}}}}
- name: eth1
  type: ethernet
  802.1x: {{identity: me, eap-methods: [tls, peap], private-key: /k, client-cert: /c, password: {PASSWORD}, private-key-password: {KEY_PASSWORD}}}
"
    )
}

fn state(text: &str) -> NetworkState {
    NetworkState::from_json(yaml::read(text).expect("YAML")).expect("a document")
}

fn silent(what: &str, text: &str) {
    for secret in ALL {
        assert!(!text.contains(secret), "{what} tells {secret}:\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_about_a_wish_and_what_became_of_it() {
    let deaf = FakeHost::with_cards(&["eth1", "eth2"]).deaf();
    let report = run(&deaf, &Prober::none(), &state(&wish(CAK, SHARED)), &Options::default()).await;
    silent("a failed verification", &format!("{report:?}"));

    let host = FakeHost::with_cards(&["eth1", "eth2"]);
    for text in [wish(CAK, SHARED), wish(OTHER_CAK, OTHER_SHARED)] {
        let wish = state(&text);
        let planned = plan(&wish, &host.now()).expect("a plan");
        assert!(planned.lines.iter().any(|l| l.contains(HIDDEN)), "{:?}", planned.lines);
        silent("a plan", &format!("{planned:?}"));
        silent("a document", &format!("{wish:?}"));
        let report = run(&host, &Prober::none(), &wish, &Options::default()).await;
        silent("a report", &format!("{report:?}"));
    }
    let mut seen = host.now();
    let shown = yaml::write(&seen.state);
    for secret in [OTHER_CAK, KEY, OTHER_SHARED, PSK, PASSWORD, KEY_PASSWORD] {
        assert!(shown.contains(secret), "the node does not have {secret}");
    }
    seen.state.hide_secrets();
    silent("the shown state", &yaml::write(&seen.state));
    silent("an observation", &format!("{seen:?}"));
}

#[test]
fn a_published_document_is_hidden_even_where_it_is_wrong() {
    let mut json = yaml::read(&format!("{}- {{nonsense: true}}\n", wish(CAK, SHARED))).expect("YAML");
    let mut policy =
        serde_json::json!({"status": {"desiredState": json.clone(), "capturedStates": {"a": {"state": json.clone()}}}});
    NetworkState::hide_secrets_in(&mut json);
    NetworkState::hide_secrets_in(&mut policy);
    silent("a document", &json.to_string());
    silent("an enactment", &policy.to_string());
    assert_eq!(json["interfaces"][1]["macsec"]["mka-ckn"], "f2b4");
    assert_eq!(json["interfaces"][4]["802.1x"]["password"], HIDDEN);
}

#[test]
fn faults_do_not_quote_secrets() {
    let host = FakeHost::with_cards(&["eth1", "eth2"]);
    let cases = [
        format!("{{name: m0, type: macsec, macsec: {{base-iface: eth2, mka-cak: {NUMBER}, mka-ckn: f2b4}}}}"),
        format!("{{name: m0, type: macsec, macsec: {{base-iface: eth2, mka-cak: [{CAK}], mka-ckn: f2b4}}}}"),
        format!("{{name: m0, type: macsec, macsec: {{base-iface: eth2, mka-cak: x{CAK}, mka-ckn: f2b4}}}}"),
        format!("{{name: wg0, type: wireguard, wireguard: {{private-key: {PASSWORD}}}}}"),
        format!("{{name: wg0, type: wireguard, wireguard: {{private-key: {{{PASSWORD}: 1}}}}}}"),
        format!(
            "{{name: wg0, type: wireguard, wireguard: {{private-key: {KEY}, peers: [{{public-key: {PEER}, preshared-key: {NUMBER}}}]}}}}"
        ),
        format!("{{name: vpn0, type: ipsec, libreswan: {{right: a, psk: {NUMBER}}}}}"),
        format!("{{name: vpn0, type: ipsec, libreswan: {{right: a, psk: '{PSK}\"'}}}}"),
        format!("{{name: eth1, type: ethernet, 802.1x: {{eap-methods: [peap], password: {NUMBER}}}}}"),
        format!("{{name: eth1, type: ethernet, 802.1x: {{private-key-password: true, password: {NUMBER}}}}}"),
    ];
    for case in cases {
        let json = yaml::read(&format!("interfaces: [{case}]")).expect("YAML");
        let fault = NetworkState::from_json(json).and_then(|wish| plan(&wish, &host.now()));
        silent(&case.replace(NUMBER, "…"), &fault.expect_err(&case).to_string());
    }
}

/// Every file below a folder, as one text.
fn everything_in(folder: &Path) -> String {
    let mut all = String::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            all.push_str(&everything_in(&path));
        } else {
            all.push_str(&String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()));
        }
    }
    all
}

/// 802.1X without a switch that asks and without a supplicant never comes up; NetworkManager keeps what it was told.
#[test]
fn commands_and_agent_keep_silent_on_a_real_node() {
    if !may_run() {
        return;
    }
    let node = Node::up(&["--no-mgmt"]);
    let card = format!(
        "interfaces: [{{name: eth1, type: ethernet, 802.1x: {{identity: me, eap-methods: [peap], phase2-auth: mschapv2, password: {PASSWORD}}}}}]"
    );
    let out = node.apply(&card, &["--no-probes", "--no-verify", "-vv"]);
    assert!(out.status.success(), "{}", said(&out));
    silent("apply", &said(&out));
    let stored = node.dir.0.join("n/nm/etc/system-connections");
    assert!(
        everything_in(&stored).contains(PASSWORD),
        "NetworkManager has the password"
    );

    let kept = card
        .replace(PASSWORD, HIDDEN)
        .replace("type:", "description: front, type:");
    let out = node.apply(&kept, &["--no-probes", "--no-verify"]);
    assert!(out.status.success(), "{}", said(&out));
    let log = std::fs::read_to_string(node.dir.0.join("n/NetworkManager.log")).unwrap_or_default();
    // writing to disk is an update, too, of nothing
    let update = |l: &&str| l.contains("op=\"connection-update\"") && l.contains("args=");
    let updates: Vec<&str> = log.lines().filter(update).collect();
    assert!(
        updates.len() == 1 && updates[0].contains("args=\"user.data\""),
        "{updates:?}"
    );
    assert!(
        everything_in(&stored).contains(PASSWORD),
        "the placeholder keeps the password"
    );

    // this kernel need not know the link: NetworkManager takes the profile, and the rest is rolled back
    let out = node.apply(&wish(CAK, SHARED), &["--no-probes", "-vv"]);
    silent("apply", &said(&out));
    for args in [&["show"][..], &["show", "--json"], &["show", "eth1"]] {
        silent(
            "show",
            &said(&node.command(NETWRIGHT, args).output().expect("netwright starts")),
        );
    }
    silent("the journal", &everything_in(&node.dir.0.join("state")));
    agent_keeps_silent(&node, &card);
}

fn agent_keeps_silent(node: &Node, card: &str) {
    let (policies, run) = (node.dir.0.join("policies"), node.dir.0.join("run"));
    std::fs::create_dir_all(&policies).expect("a folder for policies");
    std::fs::write(policies.join("card.yaml"), card).expect("a policy");
    let broken = format!("interfaces:\n- name: eth1\n  802.1x: {{password: {PASSWORD}\n   identity: [\n");
    std::fs::write(policies.join("broken.yaml"), broken).expect("a policy");
    let log = node.dir.0.join("agent.log");
    let mut agent = node
        .command(
            NETWRIGHT,
            &[
                "agent",
                "-vv",
                "--node-name",
                "node01",
                "--max-retries",
                "0",
                "--policy-dir",
            ],
        )
        .arg(&policies)
        .arg("--run-dir")
        .arg(&run)
        .arg("--state-dir")
        .arg(node.dir.0.join("state"))
        .stderr(std::fs::File::create(&log).expect("a log"))
        .spawn()
        .expect("the agent starts");
    let limit = Instant::now() + Duration::from_secs(20);
    let published = || everything_in(&run);
    while !(published().contains("desiredState") && published().contains("broken")) {
        assert!(Instant::now() < limit, "nothing is published: {}", published());
        std::thread::sleep(Duration::from_millis(100));
    }
    let told = published();
    agent.kill().expect("it is still there");
    let _ = agent.wait();
    assert!(told.contains(HIDDEN), "{told}");
    silent("the run directory", &told);
    silent("the agent's log", &std::fs::read_to_string(log).unwrap_or_default());
}

/// The checkpoint does not cover the profile of a link that is not there.
#[test]
fn a_stored_profile_with_its_keys_is_put_back_when_its_link_cannot_be_made() {
    if !may_run() {
        return;
    }
    let node = Node::up(&["--mgmt-profile"]);
    let file = node.dir.0.join("n/nm/etc/system-connections/vpn0.nmconnection");
    let text = format!(
        "[connection]\nid=vpn0\nuuid=33333333-3333-4333-8333-333333333333\ntype=vpn\n\n\
         [vpn]\nright=192.0.2.252\nservice-type=org.freedesktop.NetworkManager.libreswan\n\n[vpn-secrets]\npskvalue={PSK}\n"
    );
    std::fs::write(&file, text).expect("a profile");
    common::must(&mut node.command("chmod", &["600", file.to_str().unwrap_or_default()]));
    common::must(&mut node.command("nmcli", &["connection", "reload"]));
    let out = node.apply(
        "interfaces: [{name: vpn0, type: ipsec, libreswan: {right: 192.0.2.253, psk: another}}]",
        &["--no-probes"],
    );
    let said = said(&out);
    assert!(!out.status.success(), "{said}");
    assert!(
        said.contains("the libreswan plug-in of NetworkManager is missing: install NetworkManager-libreswan"),
        "{said}"
    );
    let left = std::fs::read_to_string(&file).expect("it is kept");
    assert!(left.contains("right=192.0.2.252") && left.contains(PSK), "{left}");
}

#[test]
fn a_printed_state_can_be_planned_against() {
    let mut printed = state(&wish(CAK, SHARED));
    printed.hide_secrets();
    let seen = Observation::from_document(&printed);
    let lines = plan(&printed, &seen).expect("a plan").lines;
    assert!(!lines.iter().any(|l| l.contains(HIDDEN)), "{lines:?}");
    let lines = plan(&state(&wish(OTHER_CAK, SHARED)), &seen).expect("a plan").lines;
    let told = format!("interfaces[m0].macsec.mka-cak: another → {HIDDEN}");
    assert!(lines.contains(&told), "{lines:?}");
}

#[test]
fn secrets_are_shown_on_demand() {
    let wish: Value = yaml::read(&wish(CAK, SHARED)).expect("YAML");
    let plain = NetworkState::from_json(wish).expect("a document");
    let mut hidden = plain.clone();
    hidden.hide_secrets();
    assert!(yaml::write(&plain).contains(CAK));
    assert_eq!(yaml::write(&hidden).matches(HIDDEN).count(), 6);
}
