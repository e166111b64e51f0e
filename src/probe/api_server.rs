//! The apiserver over a fresh connection, and our Node in it.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::{Api, Client, Config};

use super::ROUND;

/// How the cluster is reached, and who we are in it.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Address and credentials.
    pub config: Config,
    /// Our Node.
    pub node: String,
}

impl Cluster {
    /// The apiserver's address where it is not a name.
    pub fn address(&self) -> Option<IpAddr> {
        self.config.cluster_url.host()?.trim_matches(['[', ']']).parse().ok()
    }

    /// A client of its own: a pooled connection may outlive the route it came by, and retries would hide the failure.
    fn client(&self) -> Result<Client, String> {
        let mut config = self.config.clone();
        config.connect_timeout = Some(ROUND);
        config.read_timeout = Some(ROUND);
        config.write_timeout = Some(ROUND);
        config.default_retry = false;
        crate::metrics::apiserver::client(config).map_err(|e| e.to_string())
    }
}

fn said(e: &kube::Error) -> String {
    format!("apiserver: {}", crate::error::chain(e))
}

/// A GET of namespace `default`, which every cluster has.
pub async fn reach(cluster: Option<&Cluster>) -> Result<(), String> {
    let cluster = cluster.ok_or("there is no cluster")?;
    Api::<Namespace>::all(cluster.client()?)
        .get("default")
        .await
        .map(|_| ())
        .map_err(|e| said(&e))
}

/// Own Node has Ready=True.
pub async fn node_ready(cluster: Option<&Cluster>) -> Result<(), String> {
    let cluster = cluster.ok_or("there is no cluster")?;
    let node = Api::<Node>::all(cluster.client()?)
        .get(&cluster.node)
        .await
        .map_err(|e| said(&e))?;
    match is_ready(&node) {
        true => Ok(()),
        false => Err(format!("node {} is not Ready", cluster.node)),
    }
}

/// Condition Ready is True.
pub fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}
