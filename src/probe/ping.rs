//! ICMP echo to the default gateways.

use std::net::IpAddr;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use surge_ping::{Client, Config, ICMP, IcmpPacket, PingIdentifier, PingSequence};

use super::ROUND;
use super::hope::Gateway;

/// One of them answers.
pub async fn gateways(all: &[Gateway]) -> Result<(), String> {
    if all.is_empty() {
        return Err("there is no default gateway".to_owned());
    }
    let mut asked: FuturesUnordered<_> = all.iter().map(|g| echo(g.ip, Some(g.link))).collect();
    let mut why = String::new();
    while let Some(said) = asked.next().await {
        match said {
            Ok(()) => return Ok(()),
            Err(e) => why = e,
        }
    }
    Err(why)
}

/// One echo. A client of its own, as its receiver cannot end otherwise.
pub async fn echo(ip: IpAddr, link: Option<u32>) -> Result<(), String> {
    let kind = if ip.is_ipv6() { ICMP::V6 } else { ICMP::V4 };
    let client = Client::new(&Config::builder().kind(kind).build()).map_err(|e| format!("cannot send ICMP: {e}"))?;
    let mut pinger = client.pinger(ip, PingIdentifier(std::process::id() as u16)).await;
    pinger.timeout(ROUND);
    if let (IpAddr::V6(v6), Some(link)) = (ip, link)
        && v6.is_unicast_link_local()
    {
        pinger.scope_id(link);
    }
    let payload = [0u8; 32];
    let answer = pinger.ping(PingSequence(0), &payload).await;
    let (packet, _) = answer.map_err(|e| format!("no echo from {ip}: {e}"))?;
    // surge-ping takes an error that quotes the request for an answer; the kernel sends one where a neighbour does not answer ARP
    match refused(&packet) {
        None => Ok(()),
        Some(by) => Err(format!("no echo from {ip}: {by} says that it cannot be reached")),
    }
}

/// Who says so, where it is no echo reply.
fn refused(packet: &IcmpPacket) -> Option<IpAddr> {
    match packet {
        IcmpPacket::V4(p) => (p.get_icmp_type().0 != 0).then(|| p.get_source().into()),
        IcmpPacket::V6(p) => (p.get_icmpv6_type().0 != 129).then(|| p.get_source().into()),
    }
}
