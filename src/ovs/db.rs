//! Talking to ovsdb-server: JSON-RPC 1.0 (RFC 7047) over a unix socket, where nothing but the braces tells where a message ends.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::error::HostError;

/// ovsdb-server answers from memory; one that takes longer hangs.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A database of 10,000 ports is about 10 MB of JSON.
const LARGEST: usize = 256 << 20;

/// Finds the end of each JSON object in a stream of bytes. Every byte is looked at once.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: Vec<u8>,
    seen: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Frames {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes of a message that has not ended yet.
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole object, if there is one.
    pub fn take(&mut self) -> Option<Result<Value, serde_json::Error>> {
        while let Some(byte) = self.buffer.get(self.seen) {
            self.seen += 1;
            if self.ends(*byte) {
                let message: Vec<u8> = self.buffer.drain(..self.seen).collect();
                self.seen = 0;
                return Some(serde_json::from_slice(&message));
            }
        }
        None
    }

    fn ends(&mut self, byte: u8) -> bool {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.in_string => self.escaped = true,
            b'"' => self.in_string = !self.in_string,
            _ if self.in_string => {}
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

fn failed(what: &str, socket: &Path, why: impl std::fmt::Display) -> HostError {
    HostError::Other(format!("{what} of Open vSwitch at {}: {why}", socket.display()))
}

/// Carries out operations as one transaction: all or nothing. Gives one result for each.
pub async fn transact(socket: &Path, operations: Vec<Value>) -> Result<Vec<Value>, HostError> {
    let what = "asking the database";
    let count = operations.len();
    let talk = tokio::time::timeout(TIMEOUT, ask(socket, operations)).await;
    let reply = talk
        .map_err(|_| failed(what, socket, format!("no answer within {} s", TIMEOUT.as_secs())))?
        .map_err(|e| failed(what, socket, e))?;
    if let Some(fault) = reply.get("error").filter(|e| !e.is_null()) {
        return Err(failed(what, socket, fault));
    }
    let results = reply
        .get("result")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    // what fails is told by the operation's result, or by one more at the end
    if let Some(fault) = results.iter().find(|r| r.get("error").is_some()) {
        let text = |key: &str| fault.get(key).and_then(Value::as_str).unwrap_or_default();
        return Err(failed(
            what,
            socket,
            format!("{} {}", text("error"), text("details")).trim_end(),
        ));
    }
    match results.len() >= count {
        true => Ok(results),
        false => Err(failed(what, socket, "an answer is missing")),
    }
}

async fn ask(socket: &Path, operations: Vec<Value>) -> std::io::Result<Value> {
    let mut stream = UnixStream::connect(socket).await?;
    let mut params = vec![json!("Open_vSwitch")];
    params.extend(operations);
    send(&mut stream, &json!({"method": "transact", "params": params, "id": 1})).await?;
    let mut frames = Frames::default();
    let mut chunk = vec![0; 64 << 10];
    loop {
        while let Some(message) = frames.take() {
            let message = message?;
            if message.get("id") == Some(&json!(1)) && message.get("method").is_none() {
                return Ok(message);
            }
            if message.get("method") == Some(&json!("echo")) {
                let answer = json!({"id": message.get("id"), "result": message.get("params"), "error": null});
                send(&mut stream, &answer).await?;
            }
        }
        if frames.pending() > LARGEST {
            return Err(std::io::Error::other("a message without end"));
        }
        match stream.read(&mut chunk).await? {
            0 => return Err(std::io::Error::other("it closed the connection")),
            n => frames.push(&chunk[..n]),
        }
    }
}

async fn send(stream: &mut UnixStream, message: &Value) -> std::io::Result<()> {
    stream.write_all(message.to_string().as_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_where_they_end_however_they_arrive() {
        let text = r#"{"id":1,"result":[{"a":"}\"{"}]} {"method":"echo","params":[]}{"#;
        for size in 1..=text.len() {
            let mut frames = Frames::default();
            let mut found = vec![];
            for piece in text.as_bytes().chunks(size) {
                frames.push(piece);
                while let Some(message) = frames.take() {
                    found.push(message.expect("it is JSON"));
                }
            }
            assert_eq!(
                found,
                [
                    json!({"id": 1, "result": [{"a": "}\"{"}]}),
                    json!({"method": "echo", "params": []})
                ]
            );
            assert_eq!(frames.pending(), 1);
        }
    }

    #[test]
    fn what_is_no_json_is_an_error() {
        let mut frames = Frames::default();
        frames.push(b"}{]");
        assert!(frames.take().is_some_and(|m| m.is_err()));
    }
}
