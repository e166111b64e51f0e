//! The order of a transaction on the fake node: what is called when, and what is left after each kind of failure.

use std::time::Duration;

use netwright::error::ErrorKind;
use netwright::facts::GlobalDns;
use netwright::host::fake::FakeHost;
use netwright::probe::Prober;
use netwright::state::NetworkState;
use netwright::transaction::{Options, Outcome, Phase, Report, run};
use netwright::yaml;

const BRIDGE: &str = "interfaces: [{name: br0, type: linux-bridge, bridge: {port: [{name: eth1}]}}]";

fn state(text: &str) -> NetworkState {
    NetworkState::from_json(yaml::read(text).expect("YAML")).expect("a document")
}

async fn apply(host: &FakeHost, text: &str) -> Report {
    apply_as(host, text, Options::default()).await
}

async fn apply_as(host: &FakeHost, text: &str, options: Options) -> Report {
    run(host, &Prober::none(), &state(text), &options).await
}

#[tokio::test(start_paused = true)]
async fn everything_in_its_order() {
    let host = FakeHost::with_cards(&["eth1"]);
    assert_eq!(apply(&host, BRIDGE).await.outcome, Outcome::Applied);
    let log = host.log();
    let want = [
        "checkpoint",
        "save br0",
        "save eth1",
        "activate br0",
        "activate eth1",
        "commit",
    ];
    assert_eq!(log, want);
}

#[tokio::test(start_paused = true)]
async fn an_empty_plan_touches_nothing() {
    let host = FakeHost::with_cards(&["eth1"]);
    apply(&host, BRIDGE).await;
    host.log();
    assert_eq!(apply(&host, BRIDGE).await.outcome, Outcome::Unchanged);
    assert!(host.log().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_wrong_document_touches_nothing() {
    let host = FakeHost::with_cards(&["eth1"]);
    let outcome = apply(
        &host,
        "interfaces: [{name: br0, type: linux-bridge, bridge: {port: [{name: eth9}]}}]",
    )
    .await;
    assert!(matches!(outcome.outcome, Outcome::Refused(_)), "{:?}", outcome.outcome);
    assert!(host.log().is_empty());
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_after_the_checkpoint_is_rolled_back() {
    for (what, phase) in [
        ("save eth1", Phase::Execute),
        ("activate br0", Phase::Execute),
        ("commit", Phase::Commit),
    ] {
        let host = FakeHost::with_cards(&["eth1"]).fail_at(what);
        let before = host.now().facts.profiles;
        let report = apply(&host, BRIDGE).await;
        assert!(
            matches!(&report.outcome, Outcome::Failed { phase: p, cause, .. } if *p == phase && cause.contains(what)),
            "{what}: {:?}",
            report.outcome
        );
        assert_eq!(host.log().last().map(String::as_str), Some("rollback"), "{what}");
        assert_eq!(host.now().facts.profiles, before, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_checkpoint_nothing_is_changed() {
    let host = FakeHost::with_cards(&["eth1"]).fail_at("checkpoint");
    let report = apply(&host, BRIDGE).await;
    assert!(matches!(
        report.outcome,
        Outcome::Failed {
            phase: Phase::Checkpoint,
            ..
        }
    ));
    assert_eq!(host.log(), ["checkpoint"]);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_come_about_is_rolled_back_and_named() {
    let host = FakeHost::with_cards(&["eth1"]).deaf();
    let report = apply(&host, BRIDGE).await;
    match report.outcome {
        Outcome::Failed {
            phase: Phase::Verify,
            kind: ErrorKind::VerificationError,
            cause,
        } => assert!(cause.contains("interfaces[br0]"), "{cause}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(host.log().last().map(String::as_str), Some("rollback"));
}

#[tokio::test(start_paused = true)]
async fn a_rollback_that_fails_is_tried_again() {
    let host = FakeHost::with_cards(&["eth1"]).deaf().fail_at("rollback");
    let report = apply(&host, BRIDGE).await;
    assert!(matches!(
        report.outcome,
        Outcome::Failed {
            phase: Phase::Verify,
            ..
        }
    ));
    assert_eq!(host.log().iter().filter(|l| *l == "rollback").count(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_old_address_is_gone_before_anything_is_proved() {
    let addresses = |ips: &[&str]| {
        let each = ips.iter().map(|ip| format!("{{ip: {ip}, prefix-length: 24}}"));
        let list = each.collect::<Vec<_>>().join(", ");
        format!("interfaces: [{{name: eth1, type: ethernet, ipv4: {{enabled: true, dhcp: false, address: [{list}]}}}}]")
    };
    // another order makes another one the first, which in passing costs the others where the kernel promotes none
    let changes: [[&[&str]; 2]; 2] = [
        [&["192.0.2.1"], &["198.51.100.1"]],
        [
            &["192.0.2.5", "192.0.2.6", "192.0.2.7"],
            &["192.0.2.7", "192.0.2.6", "192.0.2.5"],
        ],
    ];
    for [from, to] in changes {
        let host = FakeHost::with_cards(&["eth1"]);
        apply(&host, &addresses(from)).await;
        let host = host.lingering(4);
        host.log();
        assert_eq!(apply(&host, &addresses(to)).await.outcome, Outcome::Applied);
        let log = host.log();
        let at = |what: &str| log.iter().position(|l| l == what);
        assert!(
            at("old addresses gone").is_some_and(|gone| Some(gone) < at("commit")),
            "{log:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn routes_that_were_flushed_are_put_back_once() {
    let wish = "{interfaces: [{name: eth1, type: ethernet, ipv4: {enabled: true, dhcp: false, address: [{ip: 192.0.2.1, prefix-length: 24}]}}],
        routes: {config: [{destination: 198.51.100.0/24, next-hop-interface: eth1, next-hop-address: 192.0.2.2}]}}";
    let host = FakeHost::with_cards(&["eth1"]).flushing();
    assert_eq!(apply(&host, wish).await.outcome, Outcome::Applied);
    let want = ["checkpoint", "save eth1", "activate eth1", "reapply eth1", "commit"];
    assert_eq!(host.log(), want);

    let host = FakeHost::with_cards(&["eth1"]).deaf();
    let report = apply(&host, wish).await;
    assert!(matches!(
        report.outcome,
        Outcome::Failed {
            phase: Phase::Verify,
            ..
        }
    ));
}

#[tokio::test(start_paused = true)]
async fn an_address_that_udev_wrote_over_is_set_again_once() {
    let udevs = "0E:E2:A6:2F:FE:D1";
    let host = FakeHost::with_cards(&["eth1"]).overwriting(udevs);
    let bond = "interfaces: [{name: bond0, type: bond, mac-address: '02:00:00:00:00:B0', \
                link-aggregation: {mode: active-backup, port: [eth1]}}, \
                {name: bond0.5, type: vlan, vlan: {base-iface: bond0, id: 5}}]";
    assert_eq!(apply(&host, bond).await.outcome, Outcome::Applied);
    assert_eq!(
        host.now().facts.link("bond0").unwrap().mac.as_deref(),
        Some("02:00:00:00:00:B0")
    );
    let log = host.log();
    let first: Vec<&String> = log.iter().filter(|l| l.starts_with("activate")).collect();
    let again = ["activate bond0", "activate bond0.5", "activate eth1"];
    assert_eq!(first, [again, again].concat(), "with what stands on it");
}

#[tokio::test(start_paused = true)]
async fn without_a_commit_the_checkpoint_is_held() {
    let host = FakeHost::with_cards(&["eth1"]);
    let options = Options {
        hold: Some(Duration::from_secs(60)),
        ..Options::default()
    };
    let report = apply_as(&host, BRIDGE, options).await;
    assert_eq!(
        (report.outcome, report.held.as_deref()),
        (Outcome::Applied, Some("/checkpoint/1"))
    );
    assert_eq!(host.log().last().map(String::as_str), Some("hold"));
}

#[tokio::test(start_paused = true)]
async fn effects_are_undone_with_the_rest() {
    let host = FakeHost::with_cards(&["eth1"]).fail_at("commit");
    let before = GlobalDns {
        servers: vec!["192.0.2.53".into()],
        ..GlobalDns::default()
    };
    host.meddle(|facts| facts.dns.global = Some(before.clone()));
    apply(&host, "dns-resolver: {config: {server: [198.51.100.53]}}").await;
    assert!(host.log().iter().any(|l| l == "global-dns 198.51.100.53"));
    assert_eq!(host.now().facts.dns.global, Some(before));
}
