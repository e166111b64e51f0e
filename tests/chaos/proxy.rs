//! Between agents and apiserver: refuses with 429 and 500, drops connections, or is not there. Speaks TLS to both sides, one request a connection.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Where agents find it.
pub const PORT: u16 = 7443;

/// What it does at the moment.
#[derive(Default)]
pub struct Mood {
    /// Percent of requests that are refused.
    pub storm: AtomicU64,
    /// Nobody gets through, and nobody is told.
    pub away: AtomicBool,
    requests: AtomicU64,
    pub refused: AtomicU64,
}

/// What goes on for as long as the test does.
pub type Work = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// The proxy.
pub struct Proxy {
    pub mood: Arc<Mood>,
    connections: watch::Sender<u64>,
}

impl Proxy {
    /// Listens inside the control plane of the bed, on a thread of its own.
    pub fn start(dir: &Path, inside: fn(&Path, Work)) -> Self {
        let mood = Arc::new(Mood::default());
        let (connections, dropped) = watch::channel(0);
        let (pki, ours) = (dir.join("pki"), mood.clone());
        let (ready, told) = std::sync::mpsc::channel();
        let work = async move {
            let listener = TcpListener::bind(("0.0.0.0", PORT)).await.expect("the port is free");
            ready.send(()).expect("somebody waits");
            serve(listener, &pki, ours, dropped).await;
        };
        inside(dir, Box::pin(work));
        told.recv().expect("it listens");
        Proxy { mood, connections }
    }

    /// All that are open.
    pub fn drop_connections(&self) {
        self.connections.send_modify(|n| *n += 1);
    }
}

async fn serve(listener: TcpListener, pki: &Path, mood: Arc<Mood>, dropped: watch::Receiver<u64>) {
    let (acceptor, connector) = (acceptor(pki), connector(pki));
    while let Ok((client, _)) = listener.accept().await {
        let (acceptor, connector, mood, mut dropped) =
            (acceptor.clone(), connector.clone(), mood.clone(), dropped.clone());
        dropped.mark_unchanged();
        tokio::spawn(async move {
            tokio::select! {
                _ = pass(client, acceptor, connector, &mood) => {}
                _ = dropped.changed() => {}
            }
        });
    }
}

async fn pass(client: TcpStream, acceptor: TlsAcceptor, connector: TlsConnector, mood: &Mood) -> std::io::Result<()> {
    if mood.away.load(Ordering::Relaxed) {
        return std::future::pending().await;
    }
    let mut client = acceptor.accept(client).await?;
    let request = read(&mut client).await?;
    // as even as can be: so many of each hundred
    let n = mood.requests.fetch_add(37, Ordering::Relaxed);
    if n % 100 < mood.storm.load(Ordering::Relaxed) {
        mood.refused.fetch_add(1, Ordering::Relaxed);
        let first = match n % 2 {
            0 => "429 Too Many Requests\r\nRetry-After: 1",
            _ => "500 Internal Server Error",
        };
        let answer = format!("HTTP/1.1 {first}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        client.write_all(answer.as_bytes()).await?;
        return client.shutdown().await;
    }
    let server = TcpStream::connect(("127.0.0.1", 6443)).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    let mut server = connector.connect(name, server).await?;
    server.write_all(&request).await?;
    copy_bidirectional(&mut client, &mut server).await.map(|_| ())
}

/// One request, changed so that the connection ends with its answer.
async fn read(client: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut all = vec![];
    let end = loop {
        if let Some(end) = all.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        if client.read_buf(&mut all).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    };
    let head = String::from_utf8_lossy(&all[..end]).into_owned();
    let lower = head.to_ascii_lowercase();
    let length = lower.lines().find_map(|l| l.strip_prefix("content-length:"));
    let length: usize = length.and_then(|l| l.trim().parse().ok()).unwrap_or(0);
    while all.len() < end + 4 + length {
        if client.read_buf(&mut all).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    let body = all.split_off(end + 4);
    Ok([head.as_bytes(), b"\r\nConnection: close\r\n\r\n", &body].concat())
}

fn acceptor(pki: &Path) -> TlsAcceptor {
    let (certificates, key) = identity(pki, "server");
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(certificates, key);
    TlsAcceptor::from(Arc::new(config.expect("the bed's certificate")))
}

/// As administrator, so that an agent outlives its Node, which its token does not.
fn connector(pki: &Path) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(pki.join("ca.crt")).expect("the bed's CA") {
        roots.add(certificate.expect("a certificate")).expect("a CA");
    }
    let (certificates, key) = identity(pki, "admin");
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates, key);
    TlsConnector::from(Arc::new(config.expect("the bed's certificate")))
}

fn identity(pki: &Path, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let file = |kind: &str| pki.join(format!("{name}.{kind}"));
    let certificates = CertificateDer::pem_file_iter(file("crt")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(file("key")).expect("a key");
    (certificates.map(|c| c.expect("a certificate")).collect(), key)
}
