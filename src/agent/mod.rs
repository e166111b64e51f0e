//! The agent of one node: watches policies, its Node and its enactments; one worker applies, another task publishes the state.

use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kube::api::PartialObjectMeta;
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use kube::{Resource, ResourceExt};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::api::condition::is_true;
use crate::api::{
    LABEL_NODE, LABEL_POLICY, NodeNetworkConfigurationEnactment, NodeNetworkConfigurationPolicy, NodeNetworkState,
    label_value,
};
use crate::error::HostError;
use crate::host::Host;
use crate::host::live::LiveHost;
use crate::journal::{Journal, Lock, Recovered};
use crate::metrics::{self, Role};
use crate::probe::{Cluster, Prober};
use crate::serve::{self, Address};

use apiserver::Apiserver;

pub mod apiserver;
pub mod decide;
pub mod defaults;
mod events;
mod inverse;
mod marker;
mod patch;
mod publish;
pub mod standalone;
pub mod watch;
mod worker;

/// Pause before a node that cannot be read, or that somebody else holds a checkpoint on, is looked at again.
pub const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Flags of the agent.
#[derive(Debug, Clone)]
pub struct Config {
    /// The Node this runs on.
    pub node_name: String,
    /// Credentials; None is the service account's.
    pub kubeconfig: Option<PathBuf>,
    /// Lock and journal.
    pub state_dir: PathBuf,
    /// Enactments and state of `policy_dir`.
    pub run_dir: PathBuf,
    /// Policies from a folder instead of an apiserver.
    pub policy_dir: Option<PathBuf>,
    /// How long a probe may take to pass after a change.
    pub probe_timeout: Duration,
    /// Host to ask name servers for.
    pub probe_dns_host: Option<String>,
    /// Tries after a failed probe.
    pub probe_retries: u32,
    /// Tries of an apply that failed before the network was at risk.
    pub max_retries: u32,
    /// First pause between them.
    pub initial_backoff: Duration,
    /// Longest pause.
    pub max_backoff: Duration,
    /// Where metrics and health are served.
    pub metrics_address: Address,
    /// Report bridges as resources of the Node.
    pub bridge_marker: bool,
    /// The lock of kubernetes-nmstate's handler.
    pub handler_lock: PathBuf,
}

impl Config {
    /// The defaults, for tests.
    #[cfg(test)]
    pub fn test() -> Self {
        Config {
            node_name: "node01".into(),
            kubeconfig: None,
            state_dir: PathBuf::new(),
            run_dir: PathBuf::new(),
            policy_dir: None,
            probe_timeout: crate::probe::DEFAULT_TIMEOUT,
            probe_dns_host: None,
            probe_retries: 1,
            max_retries: 5,
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(30),
            metrics_address: Address(None),
            bridge_marker: false,
            handler_lock: PathBuf::new(),
        }
    }
}

/// Credentials and address of the apiserver.
pub async fn cluster_config(kubeconfig: Option<&std::path::Path>) -> anyhow::Result<kube::Config> {
    Ok(match kubeconfig {
        Some(path) => {
            let kubeconfig = kube::config::Kubeconfig::read_from(path)?;
            kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?
        }
        None => kube::Config::infer().await?,
    })
}

/// Runs until it is told to stop; a transaction that is under way ends first.
pub async fn run(config: Config) -> anyhow::Result<()> {
    // from now on a signal waits for the end of a transaction
    drop(stop_signal());
    let _lock = Lock::take(&config.state_dir)?;
    serve::start(config.metrics_address, Role::Agent);
    let _no_handler = tokio::select! {
        lock = Lock::instead_of_handler(&config.handler_lock) => lock,
        () = stop_signal() => return Ok(()),
    };
    let journal = Journal::open(&config.state_dir)?;
    let host = LiveHost::connect().await?;
    let recovered = tokio::select! {
        recovered = recover(&journal, &host) => recovered,
        () = stop_signal() => return Ok(()),
    };
    if let Some(Recovered { policy, message, .. }) = &recovered {
        metrics::agent().rolled_back(None);
        warn!(policy, phase = "recover", "{message}");
    }
    let host = host.with_journal(journal);
    match &config.policy_dir {
        Some(dir) => standalone::run(&config, dir, host, recovered).await,
        None => {
            let cluster = cluster_config(config.kubeconfig.as_deref()).await?;
            let apiserver = Apiserver::new(cluster.clone())?;
            let cluster = Cluster {
                config: cluster,
                node: config.node_name.clone(),
            };
            let prober = Prober::defaults(config.probe_timeout, config.probe_dns_host.clone(), Some(cluster));
            in_cluster(&config, apiserver, prober, host, LiveHost::connect, recovered).await
        }
    }
}

/// A crash is put right before anything else, and NetworkManager may take its time to come.
async fn recover(journal: &Journal, host: &LiveHost) -> Option<Recovered> {
    let mut told = String::new();
    loop {
        let why = match journal.recover(host).await {
            Ok(recovered) => return recovered,
            Err(e) => crate::error::chain(&e),
        };
        if why != told {
            warn!(phase = "recover", "{why}; trying again");
            told = why;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Does what an apiserver says: `host` for the worker, what `eyes` gives for the state that is published.
pub async fn in_cluster<H, C>(
    config: &Config,
    apiserver: Apiserver,
    prober: Prober,
    host: H,
    eyes: impl Fn() -> C + Send + Sync + 'static,
    recovered: Option<Recovered>,
) -> anyhow::Result<()>
where
    H: Host + 'static,
    C: Future<Output = Result<H, HostError>> + Send + 'static,
{
    let wake = Arc::new(Notify::new());
    let own = watcher::Config::default()
        .fields(&format!("metadata.name={}", config.node_name))
        .any_semantic();
    let mine = watcher::Config::default()
        .labels(&format!("{LABEL_NODE}={}", label_value(&config.node_name)))
        .any_semantic();
    let stores = worker::Stores {
        policies: watch::<NodeNetworkConfigurationPolicy>(&apiserver, watcher::Config::default().any_semantic(), &wake),
        node: watch::<PartialObjectMeta<k8s_openapi::api::core::v1::Node>>(&apiserver, own.clone(), &wake),
        enactments: watch::<NodeNetworkConfigurationEnactment>(&apiserver, mine, &wake),
    };
    tell_metrics(&stores);
    let state = Arc::new(Notify::new());
    let published = publish::Published {
        store: watch::<PartialObjectMeta<NodeNetworkState>>(&apiserver, own.clone(), &state),
        wake: state,
    };
    let publisher = publish::Publisher {
        apiserver: apiserver.clone(),
        node: config.node_name.clone(),
        published,
        bridges: config.bridge_marker.then(|| mark(config, &apiserver)),
    };
    let record = marker::record(&config.state_dir);
    if !config.bridge_marker && record.exists() {
        tokio::spawn(marker::clear(apiserver.clone(), config.node_name.clone(), record));
    }
    // ends with us
    let mut tasks = JoinSet::new();
    tasks.spawn(publisher.run(eyes));
    let worker = worker::Worker::new(config.clone(), apiserver, stores, host, prober, recovered);
    info!(phase = "start", "agent of node {} is up", config.node_name);
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    worker.run(&wake).await
}

/// Marks the bridges that the publisher tells of.
fn mark(config: &Config, apiserver: &Apiserver) -> tokio::sync::watch::Sender<Option<marker::Bridges>> {
    let record = marker::record(&config.state_dir);
    if let Err(e) = std::fs::write(&record, "") {
        warn!(phase = "mark", "{}: {e}", record.display());
    }
    let (bridges, told) = tokio::sync::watch::channel(None);
    tokio::spawn(marker::run(apiserver.clone(), config.node_name.clone(), told));
    bridges
}

/// At each scrape enactments tell what has drifted.
fn tell_metrics(stores: &worker::Stores) {
    let mine = stores.enactments.clone();
    metrics::agent().drifts_of(move || {
        let drifted = |e: &Arc<NodeNetworkConfigurationEnactment>| {
            let conditions = e.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
            Some((e.labels().get(LABEL_POLICY)?.clone(), is_true(conditions, "Drifted")))
        };
        mine.state().iter().filter_map(drifted).collect()
    });
}

/// A store that wakes somebody at each change.
fn watch<K>(apiserver: &Apiserver, config: watcher::Config, wake: &Arc<Notify>) -> Store<K>
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Default + Eq + std::hash::Hash + Clone + Send + Sync,
{
    let wake = wake.clone();
    watch::store(apiserver, config, move || wake.notify_one())
}

/// Ends at SIGTERM or SIGINT, also at one that came since the first call, while nobody waited.
pub(crate) fn stop_signal() -> impl Future<Output = ()> + Send {
    static STOP: OnceLock<tokio::sync::watch::Receiver<bool>> = OnceLock::new();
    let mut stop = STOP.get_or_init(listen_for_stop).clone();
    async move {
        if stop.wait_for(|told| *told).await.is_err() {
            std::future::pending().await
        }
    }
}

fn listen_for_stop() -> tokio::sync::watch::Receiver<bool> {
    use tokio::signal::unix::{SignalKind, signal};
    let (told, stop) = tokio::sync::watch::channel(false);
    let signals = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    for mut signal in signals.into_iter().flatten() {
        let told = told.clone();
        tokio::spawn(async move {
            signal.recv().await;
            told.send_replace(true);
        });
    }
    stop
}
