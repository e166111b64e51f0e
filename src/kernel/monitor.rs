//! Being told: multicast events of the kernel, as a counter that goes up.

use futures::StreamExt;
use netlink_packet_core::NetlinkPayload;
use rtnetlink::MulticastGroup;
use tokio::sync::watch;

use crate::error::HostError;

use super::failed;

/// Starts listening; the task ends when nobody holds the receiver any more.
pub fn start() -> Result<watch::Receiver<u64>, HostError> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
        MulticastGroup::Ipv4Rule,
        MulticastGroup::Ipv6Rule,
    ];
    let (connection, _handle, mut messages) =
        rtnetlink::new_multicast_connection(&groups).map_err(failed("listening for netlink events"))?;
    tokio::spawn(connection);
    let (sender, receiver) = watch::channel(0);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = sender.closed() => return,
                message = messages.next() => match message {
                    // an overrun (ENOBUFS) means that events were lost: that is one, too
                    Some((m, _)) if matches!(m.payload, NetlinkPayload::InnerMessage(_) | NetlinkPayload::Overrun(_) | NetlinkPayload::Error(_)) => sender.send_modify(|n| *n += 1),
                    Some(_) => {}
                    None => return,
                },
            }
        }
    });
    Ok(receiver)
}
