//! Addresses that multipath TCP uses, as the kernel's path manager has them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tracing::debug;

use super::generic::{Attributes, Generic, number};
use crate::facts::{Facts, MptcpEndpoint};

/// `MPTCP_PM_CMD_GET_ADDR`.
const GET_ADDR: u8 = 3;

/// Fills in endpoints; a kernel without MPTCP has none.
pub async fn fill(socket: &mut Generic, facts: &mut Facts) {
    let enabled = std::fs::read_to_string("/proc/sys/net/mptcp/enabled").unwrap_or_default();
    facts.mptcp_enabled = enabled.trim() == "1";
    match socket.dump("mptcp_pm", GET_ADDR, &[]).await {
        Ok(answers) => facts.mptcp = answers.iter().filter_map(|a| endpoint(a)).collect(),
        Err(e) => debug!("MPTCP endpoints: {e}"),
    }
}

/// `MPTCP_PM_ATTR_ADDR` (1) > IPv4 (3) or IPv6 (4), flags (6), interface index (7).
pub(super) fn endpoint(message: &[u8]) -> Option<MptcpEndpoint> {
    let address = Attributes::of(message).get(1)?;
    let find = |kind: u16| Attributes::of(address).get(kind);
    let v4 = || <[u8; 4]>::try_from(find(3)?).ok().map(|b| Ipv4Addr::from(b).into());
    let v6 = || <[u8; 16]>::try_from(find(4)?).ok().map(|b| Ipv6Addr::from(b).into());
    let ip: IpAddr = v4().or_else(v6)?;
    Some(MptcpEndpoint {
        ip,
        link: find(7).and_then(number).unwrap_or(0),
        flags: find(6).and_then(number).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::super::generic::{attribute, nested};
    use super::*;

    #[test]
    fn an_endpoint() {
        let inner = [
            attribute(1, &2u16.to_ne_bytes()),
            attribute(3, &[192, 0, 2, 1]),
            attribute(6, &3u32.to_ne_bytes()),
            attribute(7, &9u32.to_ne_bytes()),
        ];
        let found = endpoint(&nested(1, &inner.concat())).unwrap();
        assert_eq!(
            (found.ip.to_string().as_str(), found.link, found.flags),
            ("192.0.2.1", 9, 3)
        );
    }
}
