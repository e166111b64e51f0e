//! `netwright commit` and `netwright rollback`: the end of `apply --no-commit`.

use std::path::PathBuf;

use clap::Args;

use crate::host::live::LiveHost;
use crate::host::{Checkpoint, Host};
use crate::journal::{Journal, Lock};
use crate::nm::checkpoint;

/// Flags of both.
#[derive(Debug, Args)]
pub struct Held {
    /// D-Bus path of the checkpoint; the first that NetworkManager lists where it is left out.
    checkpoint: Option<String>,
    /// Lock and journal.
    #[arg(long, default_value = super::STATE_DIR)]
    state_dir: PathBuf,
}

async fn held(args: &Held) -> anyhow::Result<(Lock, LiveHost, Checkpoint)> {
    let lock = Lock::take(&args.state_dir)?;
    let host = LiveHost::connect().await?.with_journal(Journal::open(&args.state_dir)?);
    let all = checkpoint::list(host.network_manager()).await?;
    let path = match &args.checkpoint {
        Some(path) if all.contains(path) => path.clone(),
        Some(path) => anyhow::bail!("NetworkManager has no checkpoint {path}; its time may have run out"),
        None => all
            .into_iter()
            .next()
            .ok_or_else(|| anyhow::anyhow!("NetworkManager has no checkpoint; its time may have run out"))?,
    };
    Ok((lock, host, Checkpoint { path }))
}

/// Keeps what was applied.
pub async fn commit(args: &Held) -> anyhow::Result<()> {
    let (_lock, host, checkpoint) = held(args).await?;
    host.commit(&checkpoint).await?;
    println!("{}", checkpoint.path);
    Ok(())
}

/// Undoes what was applied.
pub async fn rollback(args: &Held) -> anyhow::Result<()> {
    let (_lock, host, checkpoint) = held(args).await?;
    host.rollback(&checkpoint).await?;
    println!("{}", checkpoint.path);
    Ok(())
}
