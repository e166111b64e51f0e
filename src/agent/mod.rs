//! agent
use std::path::PathBuf;
use std::time::Duration;
/// c
#[derive(Debug, Clone)]
pub struct Config {
    #[allow(missing_docs)]
    pub node_name: String,
    pub kubeconfig: Option<PathBuf>,
    pub state_dir: PathBuf,
    pub run_dir: PathBuf,
    pub policy_dir: Option<PathBuf>,
    pub probe_timeout: Duration,
    pub probe_dns_host: Option<String>,
    pub probe_retries: u32,
    pub max_retries: u32,
    pub initial_backoff: Duration,
    pub max_backoff: Duration,
}
/// r
pub async fn run(_c: Config) -> anyhow::Result<()> {
    Ok(())
}
pub mod standalone {
    pub fn status(_: &std::path::Path) -> anyhow::Result<String> {
        Ok(String::new())
    }
}
