//! Accepts connections over TLS, each with the certificate that is to be shown at that moment.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificates::Pair;

const HANDSHAKE: Duration = Duration::from_secs(5);
/// Pause where there are no file descriptors left.
const EXHAUSTED: Duration = Duration::from_millis(200);
/// Connections that wait to be served.
const WAITING: usize = 64;

/// How to show this pair.
pub fn config(pair: &Pair) -> anyhow::Result<Arc<ServerConfig>> {
    let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Connections whose handshake is done.
pub struct Accepted {
    address: SocketAddr,
    streams: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
}

/// Accepts until `Accepted` is dropped. Handshakes go on side by side.
pub fn accept(listener: TcpListener, config: watch::Receiver<Arc<ServerConfig>>) -> io::Result<Accepted> {
    let address = listener.local_addr()?;
    let (send, streams) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = send.closed() => return,
            };
            let Ok((stream, from)) = accepted else {
                sleep(EXHAUSTED).await;
                continue;
            };
            let acceptor = TlsAcceptor::from(config.borrow().clone());
            let send = send.clone();
            tokio::spawn(async move {
                // who does not speak TLS to us is not our business
                if let Ok(Ok(stream)) = timeout(HANDSHAKE, acceptor.accept(stream)).await {
                    let _ = send.send((stream, from)).await;
                }
            });
        }
    });
    Ok(Accepted { address, streams })
}

impl axum::serve::Listener for Accepted {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.streams.recv().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
