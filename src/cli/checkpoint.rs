//! `netwright commit` and `netwright rollback`: the end of `apply --no-commit`.

use std::path::PathBuf;

use clap::Args;

use crate::error::{ErrorKind, Failure};
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

fn gone(what: &str) -> Failure {
    Failure {
        kind: ErrorKind::InvalidArgument,
        reason: format!("NetworkManager has no {what}; its time may have run out"),
    }
}

async fn held(args: &Held) -> anyhow::Result<(Lock, LiveHost, Checkpoint)> {
    let lock = Lock::take(&args.state_dir)?;
    let mut host = LiveHost::connect().await?;
    let all = checkpoint::list(host.network_manager()).await?;
    let path = match &args.checkpoint {
        Some(path) if all.contains(path) => path.clone(),
        Some(path) => return Err(gone(&format!("checkpoint {path}")).into()),
        None => all.into_iter().next().ok_or_else(|| gone("checkpoint"))?,
    };
    let journal = Journal::open(&args.state_dir)?;
    // somebody else's is all that is known of it
    if journal.tells_of(&path) {
        host = host.with_journal(journal);
    }
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
