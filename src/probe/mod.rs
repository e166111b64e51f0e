//! Proof that the node still reaches what it must: gateway, DNS, apiserver, node readiness, and what a policy adds.
//!
//! In: specs and a way to look at the node. Out: one `ProbeResult` a probe. Called by `transaction`.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, timeout};

use crate::api::nnce::ProbeResult;
use crate::api::nncp::ProbeOverride;
use crate::error::{HostError, Invalid};
use crate::facts::Facts;
use crate::metrics::{self, Round};

mod api_server;
mod dns;
mod hope;
mod ping;
mod target;

pub use api_server::{Cluster, is_ready};

/// One round of one probe.
const ROUND: Duration = Duration::from_secs(3);
/// Pause between rounds.
const PAUSE: Duration = Duration::from_secs(1);
/// A reading this fresh serves every probe that asks for one.
const SAME_MOMENT: Duration = Duration::from_millis(100);
/// How long the lack of a route must last before a probe gives up.
const NO_HOPE: Duration = Duration::from_secs(5);
/// Default time for a probe to pass after a change, as users of the incumbent know it.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeKind {
    /// ICMP echo to the default gateways of the main table; one that answers suffices.
    Gateway,
    /// One running name server answers: NS of `root-servers.net`, or A/AAAA of this host.
    Dns(Option<String>),
    /// A fresh connection to the apiserver.
    ApiServer,
    /// Own Node is Ready.
    NodeReadiness,
    /// A TCP connection.
    Tcp(String, u16),
    /// GET of an `http://` address answers 2xx or 3xx.
    Http(String),
    /// ICMP echo to a host.
    Ping(String),
}

/// One probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeSpec {
    /// Its name in policies and reports.
    pub name: String,
    /// What is asked.
    pub kind: ProbeKind,
    /// How long it may take to pass after a change.
    pub timeout: Duration,
    /// Counts even if it did not pass before.
    pub required: bool,
}

/// The node as probes see it.
pub trait Look: Send + Sync {
    /// One reading.
    fn facts(&self) -> impl Future<Output = Result<Facts, HostError>> + Send;
}

/// One reading for all probes of a moment: a node with many profiles is not read once a probe.
struct Shared<'a, L> {
    look: &'a L,
    last: tokio::sync::Mutex<Option<(Instant, Facts)>>,
}

impl<'a, L> Shared<'a, L> {
    fn new(look: &'a L, just_seen: Option<Facts>) -> Self {
        let last = just_seen.map(|facts| (Instant::now(), facts));
        Shared {
            look,
            last: tokio::sync::Mutex::new(last),
        }
    }
}

impl<L: Look> Look for Shared<'_, L> {
    async fn facts(&self) -> Result<Facts, HostError> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some((begun, facts)) = &*last
            && asked.saturating_duration_since(*begun) < SAME_MOMENT
        {
            return Ok(facts.clone());
        }
        let begun = Instant::now();
        let facts = self.look.facts().await?;
        *last = Some((begun, facts.clone()));
        Ok(facts)
    }
}

/// Runs probes.
#[derive(Debug, Clone, Default)]
pub struct Prober {
    specs: Vec<ProbeSpec>,
    cluster: Option<Cluster>,
}

/// What passed before the change, and against whom.
#[derive(Debug, Clone, Default)]
pub struct Baseline {
    results: Vec<ProbeResult>,
    counting: Vec<ProbeSpec>,
    gateways: BTreeSet<IpAddr>,
}

impl Baseline {
    /// The longest that proving may take.
    pub fn budget(&self) -> Duration {
        self.counting.iter().map(|s| s.timeout).max().unwrap_or(PAUSE)
    }

    /// What every probe said.
    pub fn results(&self) -> Vec<ProbeResult> {
        self.results.clone()
    }
}

/// A counting probe did not pass.
#[derive(Debug, Clone)]
pub struct ProbeFailure {
    /// What every probe said up to then.
    pub results: Vec<ProbeResult>,
    /// One sentence: `probe gateway failed: no route to 10.0.0.1`.
    pub cause: String,
}

impl Prober {
    /// No probe at all.
    pub fn none() -> Self {
        Prober::default()
    }

    /// The probes of product use: gateway and dns, and with a cluster apiserver and node-readiness.
    pub fn defaults(timeout: Duration, dns_host: Option<String>, cluster: Option<Cluster>) -> Self {
        let dns_host = dns_host.filter(|h| !matches!(h.as_str(), "" | "root-servers.net"));
        let spec = |name: &str, kind| ProbeSpec {
            name: name.to_owned(),
            kind,
            timeout,
            required: false,
        };
        let mut specs = vec![
            spec("gateway", ProbeKind::Gateway),
            spec("dns", ProbeKind::Dns(dns_host)),
        ];
        if cluster.is_some() {
            specs.push(ProbeSpec {
                required: true,
                ..spec("apiserver", ProbeKind::ApiServer)
            });
            specs.push(spec("node-readiness", ProbeKind::NodeReadiness));
        }
        Prober { specs, cluster }
    }

    /// The same with a policy's changes.
    pub fn with_overrides(&self, overrides: &[ProbeOverride]) -> Result<Self, Invalid> {
        let mut prober = self.clone();
        for (i, o) in overrides.iter().enumerate() {
            prober.change(o).map_err(|e| e.under(&format!("probes[{i}]")))?;
        }
        Ok(prober)
    }

    fn change(&mut self, o: &ProbeOverride) -> Result<(), Invalid> {
        let kind = match (&o.tcp, &o.http, &o.ping) {
            (Some(t), None, None) => Some(ProbeKind::Tcp(t.host.clone(), t.port)),
            (None, Some(h), None) => Some(target::http_kind(&h.url)?),
            (None, None, Some(p)) => Some(ProbeKind::Ping(p.host.clone())),
            (None, None, None) => None,
            _ => return Err(Invalid::new("", "a probe has one of tcp, http and ping")),
        };
        let known = self.specs.iter().position(|s| s.name == o.name);
        let standalone = self.cluster.is_none() && matches!(o.name.as_str(), "apiserver" | "node-readiness");
        match (known, kind) {
            _ if standalone => return Ok(()),
            (Some(at), None) if o.enabled == Some(false) => {
                self.specs.remove(at);
            }
            (None, _) if o.enabled == Some(false) => {}
            (Some(at), None) => {
                let spec = &mut self.specs[at];
                spec.timeout = o
                    .timeout_seconds
                    .map_or(spec.timeout, |s| Duration::from_secs(s.into()));
                spec.required = o.required.unwrap_or(spec.required);
            }
            (None, Some(kind)) => self.specs.push(ProbeSpec {
                name: o.name.clone(),
                kind,
                timeout: o
                    .timeout_seconds
                    .map_or(DEFAULT_TIMEOUT, |s| Duration::from_secs(s.into())),
                required: o.required.unwrap_or(false),
            }),
            (Some(_), Some(_)) => {
                return Err(Invalid::new(
                    "name",
                    format!("'{}' is the name of another probe", o.name),
                ));
            }
            (None, None) => {
                return Err(Invalid::new(
                    "name",
                    format!(
                        "there is no probe '{}'; one of your own needs tcp, http or ping",
                        o.name
                    ),
                ));
            }
        }
        Ok(())
    }

    /// One short round of all, before the change, on a node that was just seen like this: decides which count.
    pub async fn baseline(&self, facts: &Facts) -> Baseline {
        let rounds = self.specs.iter().map(|spec| async {
            let begin = Instant::now();
            let counted = metrics::agent().probe(&spec.name, Round::Before);
            let said = self.round(spec, facts).await;
            counted.done(said.is_ok());
            ProbeResult {
                name: spec.name.clone(),
                before: word(said.is_ok()),
                latency_ms: millis(begin),
                message: said.err().unwrap_or_default(),
                after: String::new(),
            }
        });
        let results = join_all(rounds).await;
        let passed = |name: &str| results.iter().any(|r| r.name == name && r.before == "passed");
        Baseline {
            counting: self
                .specs
                .iter()
                .filter(|s| s.required || passed(&s.name))
                .cloned()
                .collect(),
            gateways: hope::gateways(facts).into_iter().map(|g| g.ip).collect(),
            results,
        }
    }

    /// All counting probes at once, again and again until they pass; the first that has failed for good ends it. Who has looked at
    /// the node this moment says what was seen. `round` is for the metrics.
    pub async fn prove<L: Look>(
        &self,
        baseline: &Baseline,
        touched: &[String],
        look: &L,
        just_seen: Option<Facts>,
        round: Round,
    ) -> Result<Vec<ProbeResult>, ProbeFailure> {
        let look = &Shared::new(look, just_seen);
        let mut results = baseline.results();
        let mut running: FuturesUnordered<_> = baseline
            .counting
            .iter()
            .map(|spec| async move {
                let counted = metrics::agent().probe(&spec.name, round);
                let passed = self.pass(spec, baseline, touched, look).await;
                counted.done(passed.0.is_ok());
                (spec, passed)
            })
            .collect();
        while let Some((spec, (said, latency))) = running.next().await {
            let Some(result) = results.iter_mut().find(|r| r.name == spec.name) else {
                continue;
            };
            result.after = word(said.is_ok());
            result.latency_ms = latency;
            result.message = said.clone().err().unwrap_or_default();
            if let Err(why) = said {
                return Err(ProbeFailure {
                    cause: format!("probe {} failed: {why}", spec.name),
                    results,
                });
            }
        }
        for result in results.iter_mut().filter(|r| r.after.is_empty()) {
            result.after = "skipped".to_owned();
        }
        Ok(results)
    }

    /// Rounds of one probe until it passes, its time is up, or there is no hope.
    async fn pass<L: Look>(
        &self,
        spec: &ProbeSpec,
        baseline: &Baseline,
        touched: &[String],
        look: &L,
    ) -> (Result<(), String>, u32) {
        let begin = Instant::now();
        let mut hopeless_since: Option<Instant> = None;
        let mut last;
        loop {
            let round = Instant::now();
            match look.facts().await {
                Err(e) => last = crate::error::chain(&e),
                Ok(facts) => {
                    match self.round(spec, &facts).await {
                        Ok(()) => return (Ok(()), millis(round)),
                        Err(why) => last = why,
                    }
                    let lost = hope::lost(spec, self.cluster.as_ref(), baseline, touched, &facts);
                    match (&lost, hopeless_since) {
                        (None, _) => hopeless_since = None,
                        (Some(_), None) => hopeless_since = Some(round),
                        (Some(why), Some(since)) if since.elapsed() >= NO_HOPE => {
                            return (Err(why.clone()), millis(round));
                        }
                        _ => {}
                    }
                }
            }
            if begin.elapsed() + PAUSE >= spec.timeout {
                return (Err(format!("{last} (for {} s)", spec.timeout.as_secs())), millis(round));
            }
            sleep(PAUSE.saturating_sub(round.elapsed())).await;
        }
    }

    /// One round, no longer than `ROUND`.
    async fn round(&self, spec: &ProbeSpec, facts: &Facts) -> Result<(), String> {
        let asked = async {
            match &spec.kind {
                ProbeKind::Gateway => ping::gateways(&hope::gateways(facts)).await,
                ProbeKind::Dns(host) => dns::ask(facts.dns.asked(), host.as_deref()).await,
                ProbeKind::ApiServer => api_server::reach(self.cluster.as_ref()).await,
                ProbeKind::NodeReadiness => api_server::node_ready(self.cluster.as_ref()).await,
                ProbeKind::Tcp(host, port) => target::tcp(host, *port).await,
                ProbeKind::Http(url) => target::http(url).await,
                ProbeKind::Ping(host) => target::ping(host).await,
            }
        };
        timeout(ROUND, asked)
            .await
            .unwrap_or_else(|_| Err("no answer within 3 s".to_owned()))
    }
}

fn word(passed: bool) -> String {
    if passed { "passed" } else { "failed" }.to_owned()
}

fn millis(since: Instant) -> u32 {
    u32::try_from(since.elapsed().as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::nncp::TcpTarget;

    struct Node(Facts);
    impl Look for Node {
        async fn facts(&self) -> Result<Facts, HostError> {
            Ok(self.0.clone())
        }
    }

    struct Counting(std::sync::atomic::AtomicUsize);
    impl Look for Counting {
        async fn facts(&self) -> Result<Facts, HostError> {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(Facts::default())
        }
    }

    #[tokio::test]
    async fn probes_of_one_moment_share_a_reading() {
        let open = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = open.local_addr().unwrap().port();
        let all: Vec<_> = ["a", "b", "c", "d"].map(|name| tcp(name, port, Some(true))).into();
        let prober = Prober::none().with_overrides(&all).unwrap();
        let node = Counting(0.into());
        prober
            .prove(
                &prober.baseline(&Facts::default()).await,
                &[],
                &node,
                None,
                Round::After,
            )
            .await
            .unwrap();
        assert_eq!(node.0.into_inner(), 1);
    }

    fn tcp(name: &str, port: u16, required: Option<bool>) -> ProbeOverride {
        let tcp = Some(TcpTarget {
            host: "127.0.0.1".into(),
            port,
        });
        ProbeOverride {
            name: name.into(),
            tcp,
            required,
            timeout_seconds: Some(2),
            ..ProbeOverride::default()
        }
    }

    #[tokio::test]
    async fn only_what_passed_before_or_is_required_counts() {
        let open = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = open.local_addr().unwrap().port();
        let prober = Prober::none()
            .with_overrides(&[tcp("open", port, None), tcp("shut", 1, None)])
            .unwrap();
        let node = Node(Facts::default());
        let baseline = prober.baseline(&node.0).await;
        let said = prober.prove(&baseline, &[], &node, None, Round::After).await.unwrap();
        assert_eq!((said[0].after.as_str(), said[1].after.as_str()), ("passed", "skipped"));

        let prober = Prober::none().with_overrides(&[tcp("shut", 1, Some(true))]).unwrap();
        let baseline = prober.baseline(&node.0).await;
        let failure = prober
            .prove(&baseline, &[], &node, None, Round::After)
            .await
            .unwrap_err();
        assert!(failure.cause.starts_with("probe shut failed: "), "{}", failure.cause);
    }

    #[test]
    fn overrides_change_switch_off_and_add() {
        let base = Prober::defaults(Duration::from_secs(120), None, None);
        let off = ProbeOverride {
            name: "dns".into(),
            enabled: Some(false),
            ..ProbeOverride::default()
        };
        let slow = ProbeOverride {
            name: "gateway".into(),
            timeout_seconds: Some(30),
            ..ProbeOverride::default()
        };
        let changed = base
            .with_overrides(&[off, slow, tcp("storage", 3260, Some(true))])
            .unwrap();
        let names: Vec<_> = changed
            .specs
            .iter()
            .map(|s| (s.name.as_str(), s.timeout.as_secs()))
            .collect();
        assert_eq!(names, [("gateway", 30), ("storage", 2)]);
        let unknown = ProbeOverride {
            name: "gatewya".into(),
            ..ProbeOverride::default()
        };
        assert_eq!(base.with_overrides(&[unknown]).unwrap_err().path, "probes[0].name");
    }
}
