//! One of the running name servers answers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hickory_resolver::Resolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::{RuntimeProvider, TokioRuntimeProvider};
use hickory_resolver::proto::rr::RecordType;
use tokio::net::UdpSocket;

use super::ROUND;
use crate::state::dns::{plain, scope};

/// The zone of the root servers: every resolver that reaches the world knows it.
const ROOT_SERVERS: &str = "root-servers.net.";

/// Asks all servers at once; the first answer suffices.
pub async fn ask(servers: &[String], host: Option<&str>) -> Result<(), String> {
    let ask = |s: &String| {
        let ip = plain(s).parse().ok()?;
        Some(one(ip, scope(s).map(str::to_owned), host))
    };
    let mut asked: FuturesUnordered<_> = servers.iter().filter_map(ask).collect();
    if asked.is_empty() {
        return Err("no name server is configured".to_owned());
    }
    let mut why = String::new();
    while let Some(said) = asked.next().await {
        match said {
            Ok(()) => return Ok(()),
            Err(e) => why = e,
        }
    }
    Err(why)
}

/// Sockets that leave by one interface, without which a link-local address leads nowhere.
#[derive(Clone)]
struct Through {
    tokio: TokioRuntimeProvider,
    interface: Option<String>,
}

impl RuntimeProvider for Through {
    type Handle = <TokioRuntimeProvider as RuntimeProvider>::Handle;
    type Timer = <TokioRuntimeProvider as RuntimeProvider>::Timer;
    type Udp = UdpSocket;
    type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

    fn create_handle(&self) -> Self::Handle {
        self.tokio.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        from: Option<SocketAddr>,
        limit: Option<Duration>,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Tcp>>>> {
        self.tokio.connect_tcp(server, from, limit)
    }

    fn bind_udp(&self, from: SocketAddr, _: SocketAddr) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Udp>>>> {
        let interface = self.interface.clone();
        Box::pin(async move {
            let socket = UdpSocket::bind(from).await?;
            if let Some(interface) = interface {
                socket.bind_device(Some(interface.as_bytes()))?;
            }
            Ok(socket)
        })
    }
}

async fn one(server: IpAddr, scope: Option<String>, host: Option<&str>) -> Result<(), String> {
    // TCP is for long answers only; over it a link-local server is not reached
    let asked = match scope {
        None => NameServerConfig::udp_and_tcp(server),
        Some(_) => NameServerConfig::udp(server),
    };
    let config = ResolverConfig::from_name_servers(vec![asked]);
    let through = Through {
        tokio: TokioRuntimeProvider::default(),
        interface: scope,
    };
    let mut builder = Resolver::builder_with_config(config, through);
    let options = builder.options_mut();
    options.timeout = ROUND;
    options.attempts = 1;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    let resolver = builder.build().map_err(|e| e.to_string())?;
    let answer = match host {
        None => resolver.lookup(ROOT_SERVERS, RecordType::NS).await.map(|_| ()),
        Some(host) => resolver
            .lookup_ip(format!("{}.", host.trim_end_matches('.')))
            .await
            .map(|_| ()),
    };
    answer.map_err(|e| format!("name server {server}: {e}"))
}
