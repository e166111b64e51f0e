//! Being told: every signal of NetworkManager, as a counter that goes up.

use futures::StreamExt;
use tokio::sync::watch;
use zbus::message::Type;
use zbus::{Connection, MatchRule, MessageStream};

use crate::error::HostError;

use super::{SERVICE, failed};

/// Starts listening; the task ends when nobody holds the receiver any more.
pub async fn start(bus: &Connection) -> Result<watch::Receiver<u64>, HostError> {
    let rule = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender(SERVICE)
        .build()
        .map_err(failed("listening to NetworkManager"))?;
    let mut signals = MessageStream::for_match_rule(rule, bus, std::num::NonZero::new(1024))
        .await
        .map_err(failed("listening to NetworkManager"))?;
    let (sender, receiver) = watch::channel(0);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = sender.closed() => return,
                signal = signals.next() => match signal {
                    Some(_) => sender.send_modify(|n| *n += 1),
                    None => return,
                },
            }
        }
    });
    Ok(receiver)
}
