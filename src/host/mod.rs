//! The node as the transaction sees it: one narrow trait, a live implementation and a fake that behaves.

use std::future::Future;
use std::time::Duration;

use crate::error::HostError;
use crate::observation::Observation;
use crate::step::Step;

pub mod fake;
pub mod files;
mod foreign;
pub mod kept;
pub mod live;
pub mod provisional;
pub mod restore;

/// A checkpoint that is under our control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// D-Bus object path.
    pub path: String,
}

/// The node. `live::LiveHost` is the real one, `fake::FakeHost` a small machine for tests.
pub trait Host: Send + Sync {
    /// One dump of kernel and NetworkManager.
    fn observe(&self) -> impl Future<Output = Result<Observation, HostError>> + Send;
    /// Takes a checkpoint over all devices that NetworkManager rolls back by itself after `ttl`.
    fn checkpoint(&self, ttl: Duration) -> impl Future<Output = Result<Checkpoint, HostError>> + Send;
    /// Starts the checkpoint's time afresh: it now ends `ttl` from now.
    fn extend(&self, checkpoint: &Checkpoint, ttl: Duration) -> impl Future<Output = Result<(), HostError>> + Send;
    /// Carries out steps that do not depend on one another: all sent at once, returns when all are answered; the first error wins.
    fn execute(&self, wave: &[Step]) -> impl Future<Output = Result<(), HostError>> + Send;
    /// Leaves the checkpoint in force for `ttl`: somebody else will commit it or roll it back.
    fn hold(&self, checkpoint: &Checkpoint, ttl: Duration) -> impl Future<Output = Result<(), HostError>> + Send;
    /// Keeps the changes.
    fn commit(&self, checkpoint: &Checkpoint) -> impl Future<Output = Result<(), HostError>> + Send;
    /// Restores what was, and waits until the devices have settled (no longer than 60 s).
    fn rollback(&self, checkpoint: &Checkpoint) -> impl Future<Output = Result<(), HostError>> + Send;
    /// Returns at the next D-Bus or netlink event since the last `observe` began, or after `limit`. True if there was one.
    fn changed(&self, limit: Duration) -> impl Future<Output = bool> + Send;
    /// Names the policy of the transactions to come, for a journal.
    fn set_policy(&self, _name: &str) {}
}
