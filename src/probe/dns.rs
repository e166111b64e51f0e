//! One of the running name servers answers.

use std::net::IpAddr;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hickory_resolver::Resolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RecordType;

use super::ROUND;

/// The zone of the root servers: every resolver that reaches the world knows it.
const ROOT_SERVERS: &str = "root-servers.net.";

/// Asks all servers at once; the first answer suffices.
pub async fn ask(servers: &[String], host: Option<&str>) -> Result<(), String> {
    let addresses: Vec<IpAddr> = servers
        .iter()
        .filter_map(|s| s.split('%').next()?.parse().ok())
        .collect();
    if addresses.is_empty() {
        return Err("no name server is configured".to_owned());
    }
    let mut asked: FuturesUnordered<_> = addresses.iter().map(|ip| one(*ip, host)).collect();
    let mut why = String::new();
    while let Some(said) = asked.next().await {
        match said {
            Ok(()) => return Ok(()),
            Err(e) => why = e,
        }
    }
    Err(why)
}

async fn one(server: IpAddr, host: Option<&str>) -> Result<(), String> {
    let config = ResolverConfig::from_name_servers(vec![NameServerConfig::udp_and_tcp(server)]);
    let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
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
