//! Admission, served by every replica of the controller: a policy that no node could apply does not get into etcd.
//!
//! `review` answers, `check` says what is wrong with a policy and `known` what can be known of it, `certificates` is for TLS. Agents check again: where
//! nobody answers, the apiserver takes the policy all the same (`failurePolicy: Ignore`), and the fault is in the enactment.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

pub mod certificates;
pub mod check;
mod known;
pub mod review;
mod tls;

use certificates::keeper::{self, Keeping};
use certificates::{Knobs, Pair};
pub use review::{Outcome, Question};

/// Largest request, in bytes: an object of etcd's 1.5 MiB, old and new, with who owns which field.
const MAX_BODY: usize = 8 << 20;
/// Requests that are looked at side by side; each may hold several times its size.
const SIDE_BY_SIDE: usize = 4;
/// A folder with certificates is looked at this often even if nothing is heard of it.
const FOLDER: Duration = Duration::from_secs(60);
/// Pause before a port that somebody else has is tried again.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);

/// Flags of the webhook.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Config {
    /// Where admission reviews are answered, over TLS; empty: nowhere.
    #[arg(long, default_value = "[::]:8443")]
    pub webhook_address: String,
    /// Name of the Service over it: what the certificate is for.
    #[arg(long, default_value = "netwright-webhook")]
    pub webhook_service: String,
    /// Secret in which authority and certificate are kept.
    #[arg(long, default_value = "netwright-webhook")]
    pub webhook_secret: String,
    /// Name of the webhook configurations that the authority is written into.
    #[arg(long, default_value = "netwright")]
    pub webhook_configuration: String,
    /// Take tls.crt and tls.key from here (cert-manager's, for instance), and leave Secret and webhook configurations alone.
    #[arg(long)]
    pub webhook_cert_dir: Option<PathBuf>,
    /// How long an authority lives.
    #[arg(long, env = "CA_ROTATE_INTERVAL", default_value = Knobs::USUAL[0])]
    pub ca_rotate_interval: SignedDuration,
    /// How long before its end the next one is made.
    #[arg(long, env = "CA_OVERLAP_INTERVAL", default_value = Knobs::USUAL[1])]
    pub ca_overlap_interval: SignedDuration,
    /// How long a certificate lives.
    #[arg(long, env = "CERT_ROTATE_INTERVAL", default_value = Knobs::USUAL[2])]
    pub cert_rotate_interval: SignedDuration,
    /// How long before its end the next one is made.
    #[arg(long, env = "CERT_OVERLAP_INTERVAL", default_value = Knobs::USUAL[3])]
    pub cert_overlap_interval: SignedDuration,
}

impl Config {
    fn keeping(&self, namespace: &str) -> anyhow::Result<Keeping> {
        let service = format!("{}.{namespace}", self.webhook_service);
        let knobs = Knobs {
            ca_rotate: self.ca_rotate_interval,
            ca_overlap: self.ca_overlap_interval,
            cert_rotate: self.cert_rotate_interval,
            cert_overlap: self.cert_overlap_interval,
        };
        Ok(Keeping {
            namespace: namespace.to_owned(),
            secret: self.webhook_secret.clone(),
            configuration: self.webhook_configuration.clone(),
            names: vec![
                format!("{service}.svc"),
                service.clone(),
                format!("{service}.svc.cluster.local"),
            ],
            knobs: knobs.checked().map_err(anyhow::Error::msg)?,
        })
    }
}

/// Told of each answer, and how long it took: the place for metrics.
pub type Observer = Arc<dyn Fn(Outcome, Duration) + Send + Sync>;

/// Nobody is told.
pub fn unobserved() -> Observer {
    Arc::new(|_, _| {})
}

struct Shared {
    observer: Observer,
    places: Semaphore,
}

/// Serves for ever, or until it cannot any more; never returns where the address is empty.
pub async fn run(config: &Config, client: Client, namespace: &str, observer: Observer) -> anyhow::Result<()> {
    if config.webhook_address.is_empty() {
        return std::future::pending().await;
    }
    let address: SocketAddr = config
        .webhook_address
        .parse()
        .with_context(|| format!("--webhook-address {}: such as [::]:8443", config.webhook_address))?;
    let (serve, shown) = watch::channel(None);
    let served = served(address, shown, router(observer));
    match &config.webhook_cert_dir {
        Some(dir) => tokio::select! {
            end = served => end,
            () = folder(dir, serve) => Ok(()),
        },
        None => {
            let keeping = config.keeping(namespace)?;
            tokio::select! {
                end = served => end,
                () = keeper::run(client, keeping, serve) => Ok(()),
            }
        }
    }
}

async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        // a node without IPv6
        Err(_) if address.is_ipv6() && address.ip().is_unspecified() => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}

/// On the hosts' network another replica may still have the port: roll-outs go on meanwhile.
async fn listener(address: SocketAddr) -> TcpListener {
    let mut told = false;
    loop {
        match listen(address).await {
            Ok(listener) => return listener,
            Err(e) if !std::mem::replace(&mut told, true) => {
                tracing::warn!(phase = "webhook", "listening on {address}: {e}; trying again");
            }
            Err(_) => {}
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}

/// Serves from the first certificate on, and changes over to each new one while connections go on.
async fn served(address: SocketAddr, mut shown: watch::Receiver<Option<Pair>>, router: Router) -> anyhow::Result<()> {
    let first = shown.wait_for(Option::is_some).await.map(|pair| pair.clone());
    let Ok(Some(first)) = first else {
        return std::future::pending().await;
    };
    let (change, config) = watch::channel(tls::config(&first).context("the webhook's certificate")?);
    let accepted = tls::accept(listener(address).await, config)?;
    tracing::info!(phase = "webhook", "admission reviews are answered on {address}");
    let changes = async {
        while shown.changed().await.is_ok() {
            let pair = shown.borrow_and_update().clone();
            match pair.as_ref().map(tls::config) {
                Some(Ok(config)) => {
                    tracing::info!(phase = "webhook", "a new certificate is shown");
                    change.send_replace(config);
                }
                Some(Err(e)) => tracing::warn!(phase = "webhook", "the new certificate cannot be used: {e}"),
                None => {}
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        end = axum::serve(accepted, router) => end.context("answering admission reviews"),
        () = changes => Ok(()),
    }
}

/// Certificates that somebody else keeps in a folder. Until both files belong together, the old pair is shown.
async fn folder(dir: &Path, serve: watch::Sender<Option<Pair>>) {
    let mut told = String::new();
    loop {
        // from before the reading, so that no change is missed
        let events = folder_events(dir).ok();
        match read_folder(dir) {
            Ok(pair) => {
                told.clear();
                serve.send_if_modified(|shown| {
                    let new = shown.as_ref() != Some(&pair);
                    *shown = Some(pair);
                    new
                });
            }
            Err(e) => {
                let why = crate::error::chain(e.as_ref());
                if why != told {
                    tracing::warn!(phase = "webhook", "{why}");
                    told = why;
                }
            }
        }
        let changed = async {
            match &events {
                Some(events) => events.readable().await.map(drop),
                None => std::future::pending().await,
            }
        };
        let _ = tokio::time::timeout(FOLDER, changed).await;
    }
}

fn folder_events(dir: &Path) -> anyhow::Result<AsyncFd<OwnedFd>> {
    let events = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
    let flags = inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&events, dir, flags)?;
    // an OwnedFd stays open as long as the AsyncFd that owns it, which is all that `register` would have us promise
    #[allow(deprecated)]
    Ok(AsyncFd::new(events)?)
}

fn read_folder(dir: &Path) -> anyhow::Result<Pair> {
    let text = |name: &str| {
        let file = dir.join(name);
        std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))
    };
    let pair = Pair {
        certificate: text("tls.crt")?,
        key: text("tls.key")?,
    };
    certificates::matches(&pair).with_context(|| format!("the certificate in {}", dir.display()))?;
    Ok(pair)
}

/// Every path that is served.
pub fn router(observer: Observer) -> Router {
    let shared = Arc::new(Shared {
        observer,
        places: Semaphore::new(SIDE_BY_SIDE),
    });
    Router::new()
        .route(
            "/validate",
            post(|state, body| reviewed(Question::Validate, state, body)),
        )
        .route("/mutate", post(|state, body| reviewed(Question::Mutate, state, body)))
        .route("/readyz", get(|| async { "ok" }))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(shared)
}

async fn reviewed(question: Question, State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let begin = Instant::now();
    // never closed
    let _place = shared.places.acquire().await;
    let answered = tokio::task::spawn_blocking(move || review::answer(question, &body, Timestamp::now())).await;
    let (outcome, response) = match answered {
        Ok(Ok((review, outcome))) => (outcome, Json(review).into_response()),
        Ok(Err(why)) => (Outcome::Error, (StatusCode::BAD_REQUEST, why).into_response()),
        // a fault of ours: the apiserver goes on without us
        Err(e) => (
            Outcome::Error,
            (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
        ),
    };
    (shared.observer)(outcome, begin.elapsed());
    response
}
