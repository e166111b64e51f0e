//! Bytes as the kernel might send them, through everything that reads them. For the fuzz targets and their smoke test.

use netlink_packet_core::{NetlinkBuffer, NetlinkDeserializable, NetlinkHeader};
use netlink_packet_route::RouteNetlinkMessage as Message;

use super::{address, ethtool, generic, link, mptcp, routes, rule};
use crate::facts::{Ethtool, Facts};

/// Reads a datagram of rtnetlink, the same as one of generic netlink, and its attributes as those of every family that we ask.
pub fn read(bytes: &[u8]) -> Facts {
    let mut facts = Facts::default();
    route_message(bytes, &mut facts);
    let mut answers = vec![bytes.to_vec()];
    let sequence = bytes.get(8..12).and_then(generic::number).unwrap_or_default();
    generic::take(bytes, sequence, &mut answers);
    for answer in &answers {
        facts.mptcp.extend(mptcp::endpoint(answer));
        let mut ethtool = Ethtool::default();
        ethtool::read_all(&mut ethtool, answer);
    }
    facts
}

fn route_message(bytes: &[u8], facts: &mut Facts) {
    let Ok(buffer) = NetlinkBuffer::new_checked(bytes) else {
        return;
    };
    let mut header = NetlinkHeader::default();
    header.message_type = buffer.message_type();
    match Message::deserialize(&header, buffer.payload()) {
        Ok(Message::NewLink(message)) => facts.links.push(link(message)),
        Ok(Message::NewAddress(message)) => facts.addresses.extend(address(message)),
        Ok(Message::NewRoute(message)) => facts.routes.extend(routes(message)),
        Ok(Message::NewRule(message)) => facts.rules.extend(rule(message)),
        _ => {}
    }
}
