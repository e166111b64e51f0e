//! What NetworkManager's checkpoint does not cover, and what takes its time: host names, files, virtual functions.

use std::time::Duration;

use netwright::error::{ErrorKind, HostError};
use netwright::facts::Sriov;
use netwright::host::fake::FakeHost;
use netwright::host::{Checkpoint, Host};
use netwright::observation::Observation;
use netwright::probe::Prober;
use netwright::state::NetworkState;
use netwright::step::{Effect, Step};
use netwright::transaction::{Options, Outcome, Phase, run};
use netwright::yaml;
use tokio::time::Instant;

fn state(text: &str) -> NetworkState {
    NetworkState::from_json(yaml::read(text).expect("YAML")).expect("a document")
}

async fn apply(host: &impl Host, text: &str) -> Outcome {
    run(host, &Prober::none(), &state(text), &Options::default())
        .await
        .outcome
}

fn node() -> FakeHost {
    let host = FakeHost::with_cards(&["eth1"]);
    host.meddle(|facts| {
        facts.hostname.running = Some("old".to_owned());
        facts.hostname.config = Some("old.example.org".to_owned());
    });
    host
}

#[tokio::test(start_paused = true)]
async fn host_names_are_as_before_where_something_fails() {
    let host = node().fail_at("running-hostname");
    let outcome = apply(&host, "hostname: {running: new, config: new.example.org}").await;
    assert!(
        matches!(
            &outcome,
            Outcome::Failed {
                phase: Phase::Execute,
                ..
            }
        ),
        "{outcome:?}"
    );
    let log = host.log();
    let want = [
        "checkpoint",
        "static-hostname new.example.org",
        "running-hostname new",
        "rollback",
    ];
    assert_eq!(log, want);
    let now = host.now().facts.hostname;
    assert_eq!(now.running.as_deref(), Some("old"));
    assert_eq!(now.config.as_deref(), Some("old.example.org"));
}

#[tokio::test(start_paused = true)]
async fn every_effect_knows_what_was_before() {
    let host = node();
    host.meddle(|facts| {
        facts.files.insert("/a".to_owned(), "before".to_owned());
    });
    let before = host.now();
    let file = |path: &str, content: Option<&str>| Effect::File {
        path: path.to_owned(),
        content: content.map(str::to_owned),
        mode: 0o644,
    };
    let names = |add: &[&str], remove: &[&str]| Effect::AltNames {
        link: "eth1".to_owned(),
        add: add.iter().map(|n| (*n).to_owned()).collect(),
        remove: remove.iter().map(|n| (*n).to_owned()).collect(),
    };
    for (effect, inverse) in [
        (file("/a", Some("after")), file("/a", Some("before"))),
        (file("/a", None), file("/a", Some("before"))),
        (file("/b", Some("new")), file("/b", None)),
        (names(&["x"], &["y"]), names(&["y"], &["x"])),
        (
            Effect::RunningHostname("new".to_owned()),
            Effect::RunningHostname("old".to_owned()),
        ),
        (
            Effect::StaticHostname(String::new()),
            Effect::StaticHostname("old.example.org".to_owned()),
        ),
    ] {
        assert_eq!(effect.inverse(&before.facts), inverse);
    }
}

/// A node whose driver takes its time before the interfaces of virtual functions are there.
struct SlowCard {
    host: FakeHost,
    begin: Instant,
    takes: Duration,
    /// This one never gets an interface.
    broken: Option<u32>,
}

impl SlowCard {
    fn new(takes: u64, broken: Option<u32>) -> Self {
        let host = node();
        host.meddle(|facts| {
            if let Some(link) = facts.links.iter_mut().find(|l| l.name == "eth1") {
                link.sriov = Some(Sriov {
                    most: 64,
                    autoprobe: Some(true),
                    ..Sriov::default()
                });
            }
        });
        SlowCard {
            host,
            begin: Instant::now(),
            takes: Duration::from_secs(takes),
            broken,
        }
    }
}

impl Host for SlowCard {
    async fn observe(&self) -> Result<Observation, HostError> {
        let mut facts = self.host.now().facts;
        let early = self.begin.elapsed() < self.takes;
        let vfs = facts
            .links
            .iter_mut()
            .filter_map(|l| l.sriov.as_mut())
            .flat_map(|s| &mut s.vfs);
        for vf in vfs.filter(|vf| early || Some(vf.id) == self.broken) {
            vf.interface = None;
        }
        Ok(Observation::new(facts))
    }
    async fn checkpoint(&self, ttl: Duration) -> Result<Checkpoint, HostError> {
        self.host.checkpoint(ttl).await
    }
    async fn extend(&self, at: &Checkpoint, ttl: Duration) -> Result<(), HostError> {
        self.host.extend(at, ttl).await
    }
    async fn execute(&self, wave: &[Step]) -> Result<(), HostError> {
        self.host.execute(wave).await
    }
    async fn hold(&self, at: &Checkpoint, ttl: Duration) -> Result<(), HostError> {
        self.host.hold(at, ttl).await
    }
    async fn commit(&self, at: &Checkpoint) -> Result<(), HostError> {
        self.host.commit(at).await
    }
    async fn rollback(&self, at: &Checkpoint) -> Result<(), HostError> {
        self.host.rollback(at).await
    }
    async fn changed(&self, limit: Duration) -> bool {
        self.host.changed(limit).await
    }
}

fn card(total: u32) -> String {
    format!("interfaces: [{{name: eth1, type: ethernet, ethernet: {{sr-iov: {{total-vfs: {total}}}}}}}]")
}

#[tokio::test(start_paused = true)]
async fn virtual_functions_are_waited_for() {
    // 24 of them, as many as nobody waited for before: 113 s
    let host = SlowCard::new(100, None);
    assert_eq!(apply(&host, &card(24)).await, Outcome::Applied);
    assert!(host.begin.elapsed() >= Duration::from_secs(100));
    assert_eq!(apply(&host, &card(24)).await, Outcome::Unchanged);
}

#[tokio::test(start_paused = true)]
async fn one_that_never_comes_is_named() {
    let host = SlowCard::new(0, Some(1));
    let outcome = apply(&host, &card(3)).await;
    let Outcome::Failed {
        phase: Phase::Verify,
        kind: ErrorKind::SrIovVfNotFound,
        cause,
    } = outcome
    else {
        panic!("{outcome:?}");
    };
    assert!(
        cause.contains("interfaces[eth1].ethernet.sr-iov.vfs[1].iface-name is none, not an interface"),
        "{cause}"
    );
    let passed = host.begin.elapsed();
    assert!((30..60).contains(&passed.as_secs()), "{passed:?}");
    assert_eq!(host.host.log().last().map(String::as_str), Some("rollback"));
}

#[tokio::test(start_paused = true)]
async fn what_follows_on_a_card_fails_with_it() {
    let host = SlowCard::new(0, None);
    let text = "interfaces:
- {name: eth1, type: ethernet, ethernet: {sr-iov: {total-vfs: 2}}}
- {name: 'sriov:eth1:5', type: ethernet}
";
    let before = host.host.now().facts.profiles;
    let outcome = apply(&host, text).await;
    let Outcome::Failed {
        phase: Phase::Plan,
        kind: ErrorKind::InvalidArgument,
        cause,
    } = outcome
    else {
        panic!("{outcome:?}");
    };
    assert_eq!(cause, "interfaces[sriov:eth1:5].name: eth1 has no virtual function 5");
    assert_eq!(host.host.now().facts.profiles, before);
}
