//! What a controller counts. Gauges of the cluster are asked for at each scrape, from whoever leads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{Counters, Gauges, Labels, seconds};
use crate::admission::Outcome;

/// How long a scrape waits for the one who decides.
const PATIENCE: Duration = Duration::from_secs(2);
/// What a policy may say of itself, as `kubectl get` shows it.
const POLICY_STATUS: [&str; 4] = ["Available", "Degraded", "Progressing", "Ignored"];

/// What the leader knows of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// `status.features` of all enactments.
    pub features: BTreeSet<String>,
    /// Policies by status.
    pub policies: BTreeMap<&'static str, usize>,
    /// Enactments by node and status.
    pub enactments: BTreeMap<(String, &'static str), usize>,
    /// What the NodeNetworkStates hold.
    pub nodes: BTreeMap<String, Counts>,
}

/// What one NodeNetworkState holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Interfaces by type.
    pub interfaces: BTreeMap<String, u32>,
    /// Running routes.
    pub routes: Routes,
}

/// Running routes. Static: the destination is configured, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Routes {
    /// IPv4, static.
    pub static_v4: u32,
    /// IPv4, others.
    pub dynamic_v4: u32,
    /// IPv6, static.
    pub static_v6: u32,
    /// IPv6, others.
    pub dynamic_v6: u32,
}

/// Asks for a census.
pub type Ask = oneshot::Sender<Census>;

#[derive(Debug, Default)]
struct Known {
    /// Whom to ask while we lead.
    ask: Option<mpsc::Sender<Ask>>,
    /// The cluster as the last scrape saw it.
    last: Option<Census>,
}

#[derive(Debug, Clone, Default)]
struct Cluster(Arc<Mutex<Known>>);

impl Cluster {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a controller counts.
#[derive(Debug)]
pub struct Controller {
    cluster: Cluster,
    leader: Gauge,
    held: Gauges<1>,
    allowed: Gauges<1>,
    granted: Counter,
    expired: Counter,
    admissions: Counters<1>,
    admission_duration: Histogram,
}

impl Default for Controller {
    fn default() -> Self {
        let admissions = Counters::<1>::default();
        for result in Outcome::ALL {
            drop(admissions.get_or_create(&[("result", result.word().to_owned())]));
        }
        Controller {
            cluster: Cluster::default(),
            leader: Gauge::default(),
            held: Family::default(),
            allowed: Family::default(),
            granted: Counter::default(),
            expired: Counter::default(),
            admissions,
            admission_duration: Histogram::new([0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5]),
        }
    }
}

impl Controller {
    /// Names and texts of all of it.
    pub fn register(&self, to: &mut Registry) {
        to.register_collector(Box::new(self.cluster.clone()));
        to.register("netwright_leader", "1 on the one that leads", self.leader.clone());
        to.register("netwright_slots_held", "Nodes at work", self.held.clone());
        let help = "maxUnavailable as a number of nodes";
        to.register("netwright_slots_allowed", help, self.allowed.clone());
        to.register("netwright_slots_granted", "Slots granted", self.granted.clone());
        let help = "Slots of nodes that did not renew them";
        to.register("netwright_slots_expired", help, self.expired.clone());
        to.register(
            "netwright_admission_requests",
            "Answers of the webhook",
            self.admissions.clone(),
        );
        let help = "Until the webhook's answer";
        to.register(
            "netwright_admission_duration_seconds",
            help,
            self.admission_duration.clone(),
        );
    }

    /// We lead, and are asked for the cluster at each scrape.
    pub fn lead(&self) -> mpsc::Receiver<Ask> {
        let (ask, asks) = mpsc::channel(1);
        *self.cluster.lock() = Known {
            ask: Some(ask),
            last: None,
        };
        self.leader.set(1);
        asks
    }

    /// Before a scrape: asks the one who decides. It may be busy with a write: then the last answer counts.
    pub async fn refresh(&self) {
        let Some(ask) = self.cluster.lock().ask.clone() else {
            return;
        };
        let (question, answer) = oneshot::channel();
        let asked = async {
            ask.send(question).await.ok()?;
            answer.await.ok()
        };
        if let Ok(Some(census)) = timeout(PATIENCE, asked).await {
            self.cluster.lock().last = Some(census);
        }
    }

    /// We lead no more, and know nothing of the cluster.
    pub fn follow(&self) {
        *self.cluster.lock() = Known::default();
        self.leader.set(0);
        self.held.clear();
        self.allowed.clear();
    }

    /// How many nodes are at work for a policy, and how many may be.
    pub fn slots(&self, policy: &str, held: usize, allowed: usize) {
        let number = |n| i64::try_from(n).unwrap_or(i64::MAX);
        let labels = [("policy", policy.to_owned())];
        self.held.get_or_create(&labels).set(number(held));
        self.allowed.get_or_create(&labels).set(number(allowed));
    }

    /// A policy is gone.
    pub fn forget(&self, policy: &str) {
        let labels = [("policy", policy.to_owned())];
        self.held.remove(&labels);
        self.allowed.remove(&labels);
    }

    /// A slot was granted.
    pub fn granted(&self) {
        self.granted.inc();
    }

    /// So many slots ended because their nodes did not renew them.
    pub fn expired(&self, slots: usize) {
        self.expired.inc_by(slots as u64);
    }

    /// The webhook has answered.
    pub fn admitted(&self, result: Outcome, took: Duration) {
        self.admissions
            .get_or_create(&[("result", result.word().to_owned())])
            .inc();
        self.admission_duration.observe(seconds(took));
    }
}

impl Collector for Cluster {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let cluster = self.lock();
        let Some(census) = &cluster.last else { return Ok(()) };
        let features = census.features.iter().map(|f| ([("name", f.clone())], 1));
        let help = "Features that enactments use";
        gauges(&mut encoder, "kubernetes_nmstate_features_applied", help, features)?;
        let interfaces = census.nodes.iter().flat_map(|(node, counts)| {
            let one = |(kind, n): (&String, &u32)| ([("type", kind.clone()), ("node", node.clone())], i64::from(*n));
            counts.interfaces.iter().map(one)
        });
        let help = "Interfaces in NodeNetworkStates";
        gauges(&mut encoder, "kubernetes_nmstate_network_interfaces", help, interfaces)?;
        let routes = census
            .nodes
            .iter()
            .flat_map(|(node, counts)| routes(node, counts.routes));
        // thousands of nodes need not say what they have not
        let routes = routes.filter(|(_, n)| *n > 0);
        let help = "Running routes in NodeNetworkStates";
        gauges(&mut encoder, "kubernetes_nmstate_routes", help, routes)?;
        let policies = POLICY_STATUS.map(|status| {
            let n = census.policies.get(status).copied().unwrap_or(0);
            ([("status", status.to_owned())], i64::try_from(n).unwrap_or(i64::MAX))
        });
        let help = "Policies by status";
        gauges(
            &mut encoder,
            "kubernetes_nmstate_policies_status",
            help,
            policies.into_iter(),
        )?;
        let enactments = census.enactments.iter().map(|((node, status), n)| {
            let labels = [("node", node.clone()), ("status", (*status).to_owned())];
            (labels, i64::try_from(*n).unwrap_or(i64::MAX))
        });
        let help = "Enactments by node and status";
        gauges(&mut encoder, "kubernetes_nmstate_enactments_status", help, enactments)
    }
}

fn routes(node: &str, routes: Routes) -> [(Labels<3>, i64); 4] {
    let one = |stack: &str, kind: &str, n: u32| {
        let labels = [("node", node), ("ip_stack", stack), ("type", kind)];
        (labels.map(|(key, value)| (key, value.to_owned())), i64::from(n))
    };
    [
        one("ipv4", "static", routes.static_v4),
        one("ipv4", "dynamic", routes.dynamic_v4),
        one("ipv6", "static", routes.static_v6),
        one("ipv6", "dynamic", routes.dynamic_v6),
    ]
}

fn gauges<const N: usize>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    series: impl Iterator<Item = (Labels<N>, i64)>,
) -> Result<(), fmt::Error> {
    let mut series = series.peekable();
    if series.peek().is_none() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in series {
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
