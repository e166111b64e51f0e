//! NetworkManager's checkpoints: taken over all devices, ours alone, rolled back by its own timer if we die.

use std::time::Duration;

use crate::error::HostError;

use super::{NetworkManager, call, failed, path};

/// DELETE_NEW_CONNECTIONS 0x2 and DISCONNECT_NEW_DEVICES 0x4.
const FLAGS: u32 = 0x2 | 0x4;
/// TRACK_INTERNAL_GLOBAL_DNS, since NetworkManager 1.48; earlier ones refuse it.
const TRACK_GLOBAL_DNS: u32 = 0x20;
/// How long a checkpoint lives that nobody extends: whoever took it may die before its path is written down, and then nobody knows whose it is.
pub const FIRST_TTL: Duration = Duration::from_secs(10);

fn seconds(ttl: Duration) -> u32 {
    u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX).max(1)
}

/// Paths of all checkpoints in force.
pub async fn list(nm: &NetworkManager) -> Result<Vec<String>, HostError> {
    let all = call("Properties", nm.manager().await?.checkpoints())
        .await
        .map_err(failed("listing checkpoints"))?;
    Ok(all.iter().map(ToString::to_string).collect())
}

/// There is none in force: two would undo each other's work.
pub async fn none_in_force(nm: &NetworkManager) -> Result<(), HostError> {
    match list(nm).await?.into_iter().next() {
        Some(path) => Err(HostError::ForeignCheckpoint { path }),
        None => Ok(()),
    }
}

/// Takes one over all devices, for [`FIRST_TTL`]. Gives its D-Bus path.
pub async fn create(nm: &NetworkManager) -> Result<String, HostError> {
    let manager = nm.manager().await?;
    let taking = async {
        let create = |flags| manager.checkpoint_create(&[], seconds(FIRST_TTL), flags);
        match create(FLAGS | TRACK_GLOBAL_DNS).await {
            Ok(path) => Ok(path),
            Err(_) => create(FLAGS).await,
        }
    };
    let path = call("CheckpointCreate", taking)
        .await
        .map_err(failed("taking a checkpoint"))?;
    Ok(path.to_string())
}

/// Its time starts afresh: it ends `ttl` from now.
pub async fn extend(nm: &NetworkManager, at: &str, ttl: Duration) -> Result<(), HostError> {
    call(
        "CheckpointAdjustRollbackTimeout",
        nm.manager()
            .await?
            .checkpoint_adjust_rollback_timeout(&path(at)?, seconds(ttl)),
    )
    .await
    .map_err(failed("extending the checkpoint"))
}

/// Keeps the changes.
pub async fn destroy(nm: &NetworkManager, at: &str) -> Result<(), HostError> {
    call("CheckpointDestroy", nm.manager().await?.checkpoint_destroy(&path(at)?))
        .await
        .map_err(failed("committing the checkpoint"))
}

/// Restores. Gives the D-Bus paths of devices that NetworkManager could not restore.
pub async fn rollback(nm: &NetworkManager, at: &str) -> Result<Vec<String>, HostError> {
    let devices = call(
        "CheckpointRollback",
        nm.manager().await?.checkpoint_rollback(&path(at)?),
    )
    .await
    .map_err(failed("rolling back the checkpoint"))?;
    // NM_ROLLBACK_RESULT_*: 0 ok, 1 no device, 2 unmanaged, 3 failed. A device that is gone cannot be restored and need not be.
    let stuck = devices.into_iter().filter(|(_, result)| *result == 3);
    Ok(stuck.map(|(path, _)| path.to_string()).collect())
}
