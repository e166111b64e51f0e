//! c
/// c
#[derive(Debug, Clone, clap::Args)]
pub struct Config {}
/// r
pub async fn run(_c: Config) -> anyhow::Result<()> {
    Ok(())
}
