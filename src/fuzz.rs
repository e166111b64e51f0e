//! Where text and bytes of others come in, each as one function that takes anything: no panic, no memory beyond a multiple of what was given.
//! Called by the fuzz targets (`fuzz/`) and, on their corpus (`tests/corpus/`), by `tests/corpus.rs`.

use serde_json::{Value, json};

use crate::capture::{Node, Policy};
use crate::host::fake::FakeHost;
use crate::ovs::{self, db::Frames};
use crate::state::NetworkState;
use crate::{kernel, plan, yaml};

/// A document or a policy: read, printed, read again and planned.
pub fn document(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for json in yaml::read_many(&text).unwrap_or_default() {
        let _ = Policy::from_json(json.clone());
        let Ok(state) = NetworkState::from_json(json) else {
            continue;
        };
        let again = yaml::read(&yaml::write(&state)).and_then(NetworkState::from_json);
        assert!(
            again.is_ok_and(|again| again == state),
            "its print reads as something else"
        );
        let seen = FakeHost::with_cards(&["eth1", "eth2", "eth3"]).now();
        let _ = plan::plan(&state, &seen);
    }
}

/// Expressions, one a line, each a capture that may look at those before it; the last line is a template.
pub fn capture(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines: Vec<&str> = text.lines().collect();
    let desired = lines.pop().unwrap_or_default();
    let names = (b'a'..=b'z').map(|c| char::from(c).to_string());
    let capture: serde_json::Map<String, Value> = names.zip(lines.into_iter().map(Value::from)).collect();
    let current = json!({
        "interfaces": [{"name": "eth1", "type": "ethernet", "ipv4": {"address": [{"ip": "192.0.2.1"}]}}, {"name": "lo"}],
        "routes": {"running": [{"destination": "0.0.0.0/0", "next-hop-interface": "eth1", "metric": 100}], "config": []},
        "route-rules": {"config": [{"ip-from": "192.0.2.0/24"}]},
    });
    if let Ok(policy) = Policy::from_json(json!({ "capture": capture, "desired": {"description": desired} })) {
        let _ = policy.render(&current, &Node::default());
    }
}

/// What the database of Open vSwitch might answer, in pieces of any size.
pub fn ovsdb(bytes: &[u8]) {
    let Some((size, bytes)) = bytes.split_first() else {
        return;
    };
    let mut frames = Frames::default();
    for piece in bytes.chunks(usize::from(*size).max(1)) {
        frames.push(piece);
        while let Some(message) = frames.take() {
            let Ok(message) = message else { return };
            let results = message.get("result").and_then(Value::as_array);
            ovs::joined(results.map_or(&[], Vec::as_slice));
        }
        assert!(frames.pending() <= bytes.len(), "more is kept than came");
    }
}

/// A datagram of the kernel.
pub fn netlink(bytes: &[u8]) {
    let _ = NetworkState::from_facts(&kernel::bytes::read(bytes).indexed());
}
