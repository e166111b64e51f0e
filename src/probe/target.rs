//! Targets that a policy names: a TCP port, an HTTP address, a host to ping.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};

use crate::error::Invalid;

use super::{ProbeKind, ping};

/// Takes an address apart before anything is touched.
pub fn http_kind(url: &str) -> Result<ProbeKind, Invalid> {
    match split(url) {
        Some((host, port, _)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(ProbeKind::Http(url.to_owned())),
        _ => Err(Invalid::new(
            "http.url",
            format!("'{url}' is not of the form http://host[:port]/path"),
        )),
    }
}

/// Host, port and path of an `http://` address.
fn split(url: &str) -> Option<(&str, &str, &str)> {
    let rest = url.strip_prefix("http://")?;
    let at = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (authority, "80"),
    };
    Some((
        host.trim_matches(['[', ']']),
        port,
        if path.is_empty() { "/" } else { path },
    ))
}

/// A connection comes about.
pub async fn tcp(host: &str, port: u16) -> Result<(), String> {
    TcpStream::connect((host, port))
        .await
        .map(|_| ())
        .map_err(|e| format!("{host} port {port}: {e}"))
}

/// GET answers 2xx or 3xx.
pub async fn http(url: &str) -> Result<(), String> {
    let (host, port, path) = split(url).ok_or("not an http address")?;
    let port: u16 = port.parse().map_err(|_| "not a port")?;
    let mut stream = TcpStream::connect((host, port))
        .await
        .map_err(|e| format!("{url}: {e}"))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nUser-Agent: netwright\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .map_err(|e| format!("{url}: {e}"))?;
    let mut head = [0u8; 15];
    stream.read_exact(&mut head).await.map_err(|e| format!("{url}: {e}"))?;
    // HTTP/1.1 200 OK
    match head.get(9) {
        Some(b'2' | b'3') if head.starts_with(b"HTTP/1.") => Ok(()),
        _ => Err(format!("{url} answers '{}'", String::from_utf8_lossy(&head).trim())),
    }
}

/// It echoes.
pub async fn ping(host: &str) -> Result<(), String> {
    let found = lookup_host((host, 0)).await.map_err(|e| format!("{host}: {e}"))?.next();
    let address = found.ok_or_else(|| format!("{host} has no address"))?;
    ping::echo(address.ip(), None).await
}
