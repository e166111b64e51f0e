//! What time it is for the objects of the cluster. A simulation says what the clock of each of its nodes shows; everybody else asks the system.

use std::future::Future;
use std::sync::Arc;

use jiff::Timestamp;

type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

tokio::task_local! {
    static SHOWN: Clock;
}

/// Now.
pub fn now() -> Timestamp {
    SHOWN.try_with(|clock| clock()).unwrap_or_else(|_| Timestamp::now())
}

/// Runs something for which it is always as late as `clock` says.
pub fn shows<F: Future>(clock: Clock, something: F) -> impl Future<Output = F::Output> {
    SHOWN.scope(clock, something)
}
