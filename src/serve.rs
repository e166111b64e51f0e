//! `/metrics`, `/healthz` and `/readyz` of agent and controller, by plain HTTP.
//!
//! The port is open to whoever reaches the node: few connections at a time, and none that says nothing for long.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::metrics::{self, Role};

/// Connections at a time; more wait.
const CONNECTIONS: usize = 16;
/// How long a client may take to say what it wants.
const HEADER: Duration = Duration::from_secs(5);
/// The end of a connection, whatever it is used for: a scraper connects anew.
const CONNECTION: Duration = Duration::from_secs(300);
/// Pause before an address that is taken is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// A task that has not come round for this long is stuck: no step of one takes longer than its time limits together.
const STUCK: Duration = Duration::from_secs(300);

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const OLDER: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Where to listen; None: nowhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Address(pub Option<SocketAddr>);

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = match text.strip_prefix(':') {
            _ if text.is_empty() => return Ok(Address(None)),
            // as Go programs have it
            Some(port) => format!("[::]:{port}"),
            None => text.to_owned(),
        };
        let parsed = address
            .parse()
            .map_err(|_| "an address and a port are wanted, such as [::]:8089".to_owned());
        parsed.map(|a| Address(Some(a)))
    }
}

/// How the process is.
#[derive(Debug)]
pub struct Health {
    ready: AtomicBool,
    begun: Instant,
    /// Milliseconds after `begun` at which the task came round; 0: it has not begun yet.
    round: AtomicU64,
}

impl Default for Health {
    fn default() -> Self {
        Health {
            ready: AtomicBool::new(false),
            begun: Instant::now(),
            round: AtomicU64::new(0),
        }
    }
}

impl Health {
    /// What is watched is in step.
    pub fn ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    /// The task that must never stand still has come round.
    pub fn round(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.round.store(now.max(1), Ordering::Relaxed);
    }

    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    fn is_alive(&self) -> bool {
        let last = self.round.load(Ordering::Relaxed);
        last == 0 || self.begun.elapsed().saturating_sub(Duration::from_millis(last)) < STUCK
    }
}

/// Serves until the process ends. An address that is taken is told once and tried again: the node's network goes first.
pub fn start(address: Address, role: Role) {
    let Address(Some(address)) = address else { return };
    let pages = Arc::new(Pages {
        registry: metrics::registry(role),
        health: health(),
    });
    tokio::spawn(async move {
        serve(listen(address).await, pages).await;
    });
}

/// How this process is.
pub fn health() -> &'static Health {
    static HEALTH: LazyLock<Health> = LazyLock::new(Health::default);
    &HEALTH
}

struct Pages {
    registry: Registry,
    health: &'static Health,
}

async fn listen(address: SocketAddr) -> TcpListener {
    let mut told = false;
    loop {
        match bind(address) {
            Ok(listener) => {
                let at = listener.local_addr().unwrap_or(address);
                info!(phase = "start", "metrics and health are served at {at}");
                return listener;
            }
            Err(e) if !told => {
                warn!(
                    phase = "start",
                    "metrics and health cannot be served at {address} (--metrics-address): {e}; trying again"
                );
                told = true;
            }
            Err(_) => {}
        }
        sleep(AGAIN).await;
    }
}

/// Where there is no IPv6, `[::]` means `0.0.0.0`; where there is, it means both.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let any = address.ip() == Ipv6Addr::UNSPECIFIED;
    match bind_to(address) {
        Err(e) if any && e.kind() != io::ErrorKind::AddrInUse => {
            bind_to(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))
        }
        done => done,
    }
}

fn bind_to(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv6() {
        TcpSocket::new_v6()
    } else {
        TcpSocket::new_v4()
    }?;
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    }
    socket.bind(address)?;
    socket.listen(64)
}

async fn serve(listener: TcpListener, pages: Arc<Pages>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let pages = pages.clone();
                tokio::spawn(async move {
                    let _place = place;
                    // a client that goes away or says nonsense is its own concern
                    let _ = timeout(CONNECTION, connection(stream, pages)).await;
                });
            }
            // out of file descriptors, most likely
            Err(_) => sleep(Duration::from_secs(1)).await,
        }
    }
}

async fn connection(stream: TcpStream, pages: Arc<Pages>) -> hyper::Result<()> {
    let answer = service_fn(move |request: Request<Incoming>| {
        let pages = pages.clone();
        async move {
            if request.uri().path() == "/metrics" {
                metrics::controller().refresh().await;
            }
            let page = pages.page(request.method(), request.uri().path(), request.headers());
            Ok::<_, Infallible>(page)
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER);
    http.serve_connection(TokioIo::new(stream), answer).await
}

impl Pages {
    fn page(&self, method: &Method, path: &str, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let verdict = |well: bool| match well {
            true => plain(StatusCode::OK, "ok\n"),
            false => plain(StatusCode::SERVICE_UNAVAILABLE, "not yet\n"),
        };
        if method != Method::GET && method != Method::HEAD {
            let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
            refused
                .headers_mut()
                .insert(ALLOW, http::HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        match path {
            "/metrics" => {
                let newer = wants_openmetrics(headers);
                let text = metrics::text(&self.registry, newer);
                answer(StatusCode::OK, if newer { OPENMETRICS } else { OLDER }, text)
            }
            "/healthz" => verdict(self.health.is_alive()),
            "/readyz" => verdict(self.health.is_ready()),
            _ => plain(StatusCode::NOT_FOUND, "/metrics, /healthz, /readyz\n"),
        }
    }
}

fn wants_openmetrics(headers: &HeaderMap) -> bool {
    let asked = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok());
    asked
        .flat_map(|v| v.split(','))
        .any(|v| v.trim_start().starts_with("application/openmetrics-text"))
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    answer(status, "text/plain; charset=utf-8", text.to_owned())
}

fn answer(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn addresses_are_read_and_an_empty_one_is_none() {
        let at = |text: &str| text.parse::<Address>().map(|a| a.0.map(|a| a.to_string()));
        assert_eq!(at(""), Ok(None));
        assert_eq!(at("[::]:8089"), Ok(Some("[::]:8089".into())));
        assert_eq!(at(":8089"), Ok(Some("[::]:8089".into())));
        assert_eq!(at("127.0.0.1:1"), Ok(Some("127.0.0.1:1".into())));
        assert!(at("8089").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_stands_still_is_noticed() {
        let health = Health::default();
        assert!(health.is_alive(), "it may wait long to begin");
        tokio::time::advance(STUCK * 2).await;
        assert!(health.is_alive());
        health.round();
        assert!(health.is_alive());
        tokio::time::advance(STUCK + Duration::from_secs(1)).await;
        assert!(!health.is_alive());
        health.round();
        assert!(health.is_alive());
    }

    async fn ask(at: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        said
    }

    #[tokio::test]
    async fn pages_are_served_in_the_language_that_is_asked_for() {
        let health: &'static Health = Box::leak(Box::default());
        let pages = Arc::new(Pages {
            registry: metrics::registry(Role::Agent),
            health,
        });
        let listener = bind("[::]:0".parse().unwrap()).unwrap();
        let at = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), listener.local_addr().unwrap().port());
        tokio::spawn(serve(listener, pages));
        let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n");

        let said = ask(at, &get("/metrics", "")).await;
        assert!(said.contains("content-type: text/plain; version=0.0.4"), "{said}");
        assert!(
            said.contains("# TYPE netwright_rollbacks_total counter") && !said.contains("# EOF"),
            "{said}"
        );
        let accept = "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3\r\n";
        let said = ask(at, &get("/metrics", accept)).await;
        assert!(
            said.contains("content-type: application/openmetrics-text; version=1.0.0"),
            "{said}"
        );
        assert!(
            said.contains("# TYPE netwright_rollbacks counter") && said.ends_with("# EOF\n"),
            "{said}"
        );

        assert!(ask(at, &get("/healthz", "")).await.starts_with("HTTP/1.1 200"));
        assert!(ask(at, &get("/readyz", "")).await.starts_with("HTTP/1.1 503"));
        health.ready();
        assert!(ask(at, &get("/readyz", "")).await.starts_with("HTTP/1.1 200"));
        assert!(ask(at, &get("/secrets", "")).await.starts_with("HTTP/1.1 404"));
        let post = get("/metrics", "").replace("GET", "POST");
        assert!(ask(at, &post).await.starts_with("HTTP/1.1 405"));
    }
}
