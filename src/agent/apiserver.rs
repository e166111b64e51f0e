//! The way to the apiserver. A connection whose local address went away with a change hangs for minutes, as nothing tells it: after such a
//! change everybody connects anew.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::watch;

use crate::metrics::apiserver;

/// A watch that hears nothing for this long begins anew; the apiserver sends a bookmark about once a minute.
pub const SILENCE: Duration = Duration::from_secs(120);

type Connect = Arc<dyn Fn() -> kube::Result<Client> + Send + Sync>;

/// The client to be used now.
#[derive(Clone)]
pub struct Apiserver {
    connect: Connect,
    client: Arc<watch::Sender<Client>>,
}

impl Apiserver {
    /// Does not connect yet.
    pub fn new(config: kube::Config) -> kube::Result<Self> {
        let mut config = config;
        config.read_timeout = Some(SILENCE);
        Self::with(Arc::new(move || apiserver::client(config.clone())))
    }

    /// The same for any way to connect.
    pub fn with(connect: Connect) -> kube::Result<Self> {
        let client = Arc::new(watch::Sender::new(connect()?));
        Ok(Apiserver { connect, client })
    }

    /// The client; not to be kept across a change of the node's addresses.
    pub fn now(&self) -> Client {
        self.client.borrow().clone()
    }

    /// Lets go of all connections.
    pub fn connect_anew(&self) {
        if let Ok(client) = (self.connect)() {
            self.client.send_replace(client);
        }
    }

    /// Told of each `connect_anew`.
    pub fn changes(&self) -> watch::Receiver<Client> {
        self.client.subscribe()
    }
}
