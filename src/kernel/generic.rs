//! Generic netlink: families found by name, one request at a time on a socket of its own. Attributes are handed on as they are.

use std::collections::HashMap;
use std::io;

use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};

/// `GENL_ID_CTRL`, the family that knows the others.
const CONTROL: u16 = 16;
/// `NLMSG_ERROR` and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_DUMP`.
const REQUEST: u16 = 0x001;
const ACK: u16 = 0x004;
const DUMP: u16 = 0x300;
/// `NLA_F_NESTED`, and what is left of a type without the flags.
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// The socket and the families met so far.
pub struct Generic {
    socket: TokioSocket,
    sequence: u32,
    families: HashMap<&'static str, u16>,
}

impl std::fmt::Debug for Generic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generic")
            .field("families", &self.families)
            .finish_non_exhaustive()
    }
}

/// Attributes of one level: type and value.
pub struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// Of a message or of the value of a nested attribute.
    pub fn of(bytes: &'a [u8]) -> Self {
        Attributes(bytes)
    }

    /// The value of the first attribute of a type.
    pub fn get(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find(|(k, _)| *k == kind).map(|(_, value)| value)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(self.0.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?) & TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// One attribute, padded.
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = Vec::with_capacity(usize::from(length).next_multiple_of(4));
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An attribute that holds attributes.
pub fn nested(kind: u16, attributes: &[u8]) -> Vec<u8> {
    attribute(kind | NESTED, attributes)
}

/// A number of one, two or four bytes.
pub fn number(value: &[u8]) -> Option<u32> {
    match value.len() {
        1 => Some(value[0].into()),
        2 => Some(u16::from_ne_bytes(value.try_into().ok()?).into()),
        4 => Some(u32::from_ne_bytes(value.try_into().ok()?)),
        _ => None,
    }
}

/// A text that ends with a zero byte.
pub fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

impl Generic {
    /// Opens the socket in the caller's network namespace.
    pub fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_GENERIC)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_ref().connect(&SocketAddr::new(0, 0))?;
        Ok(Generic {
            socket,
            sequence: 0,
            families: HashMap::new(),
        })
    }

    /// Every answer to a dump: the attributes of each message. A device that cannot answer ends the kernel's dump early;
    /// what came before it counts. A family that this kernel lacks has no answers.
    pub async fn dump(&mut self, family: &'static str, command: u8, attributes: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let id = self.family(family).await?;
        Ok(self.request(id, DUMP, command, attributes).await?.0)
    }

    /// The answers to a request about one thing.
    pub async fn get(&mut self, family: &'static str, command: u8, attributes: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let id = self.family(family).await?;
        match self.request(id, 0, command, attributes).await? {
            (_, Some(error)) => Err(error),
            (answers, None) => Ok(answers),
        }
    }

    async fn family(&mut self, name: &'static str) -> io::Result<u16> {
        if let Some(id) = self.families.get(name) {
            return Ok(*id);
        }
        // CTRL_CMD_GETFAMILY; CTRL_ATTR_FAMILY_NAME 2, CTRL_ATTR_FAMILY_ID 1
        let wanted = attribute(2, format!("{name}\0").as_bytes());
        let (answers, error) = self.request(CONTROL, 0, 3, &wanted).await?;
        let id = answers.first().and_then(|a| number(Attributes::of(a).get(1)?));
        match id.and_then(|id| u16::try_from(id).ok()) {
            Some(id) => Ok(*self.families.entry(name).or_insert(id)),
            None => Err(error.unwrap_or_else(|| io::ErrorKind::NotFound.into())),
        }
    }

    async fn request(
        &mut self,
        family: u16,
        flags: u16,
        command: u8,
        attributes: &[u8],
    ) -> io::Result<(Vec<Vec<u8>>, Option<io::Error>)> {
        self.sequence += 1;
        let length = u32::try_from(20 + attributes.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(20 + attributes.len());
        bytes.extend(length.to_ne_bytes());
        bytes.extend(family.to_ne_bytes());
        bytes.extend((REQUEST | ACK | flags).to_ne_bytes());
        bytes.extend(self.sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend([command, 1, 0, 0]);
        bytes.extend(attributes);
        self.socket.send(&bytes).await?;
        let mut answers = vec![];
        loop {
            let (datagram, _) = self.socket.recv_from_full().await?;
            if let Some(end) = take(&datagram, self.sequence, &mut answers) {
                return Ok((answers, end));
            }
        }
    }
}

/// Takes the messages out of a datagram; Some at the end of the answer, with the error that ended it.
pub fn take(datagram: &[u8], sequence: u32, answers: &mut Vec<Vec<u8>>) -> Option<Option<io::Error>> {
    let mut rest = datagram;
    while let Some(header) = rest.get(..16) {
        let length = number(&header[..4])? as usize;
        let message = rest.get(16..length)?;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        if number(&header[8..12]) != Some(sequence) {
            continue; // of an earlier request that was given up
        }
        match kind {
            ERROR | DONE => {
                let code = message.get(..4).and_then(number).unwrap_or(0).cast_signed();
                return Some((code < 0).then(|| io::Error::from_raw_os_error(-code)));
            }
            _ => answers.extend(message.get(4..).map(<[u8]>::to_vec)),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back() {
        let inner = [attribute(1, &7u32.to_ne_bytes()), attribute(2, b"eth1\0")].concat();
        let bytes = [nested(1, &inner), attribute(3, &[1])].concat();
        let header = Attributes::of(&bytes).get(1).unwrap();
        assert_eq!(Attributes::of(header).get(1).and_then(number), Some(7));
        assert_eq!(Attributes::of(header).get(2).map(text).as_deref(), Some("eth1"));
        assert_eq!(Attributes::of(&bytes).get(3).and_then(number), Some(1));
        assert_eq!(Attributes::of(&bytes[..5]).count(), 0, "cut short");
    }

    #[test]
    fn an_answer_ends_with_done_or_an_error() {
        let message = |kind: u16, body: &[u8]| {
            let mut m = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
            m.extend(kind.to_ne_bytes());
            m.extend([0; 2]);
            m.extend(5u32.to_ne_bytes());
            m.extend([0; 4]);
            m.extend(body);
            m
        };
        let mut answers = vec![];
        let part = message(30, &[22, 1, 0, 0, 9, 9, 9, 9]);
        assert!(take(&part, 5, &mut answers).is_none());
        let done = [part, message(DONE, &(-22i32).to_ne_bytes())].concat();
        let end = take(&done, 5, &mut answers).unwrap();
        assert_eq!(end.unwrap().raw_os_error(), Some(22));
        assert_eq!(answers, [vec![9; 4], vec![9; 4]]);
        assert!(take(&done, 6, &mut answers).is_none(), "of another request");
    }
}
