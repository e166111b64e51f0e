//! The database of Open vSwitch: one transaction to read it, one to change the keys of its global row.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use serde_json::{Value, json};
use tracing::warn;

use crate::error::HostError;
use crate::facts::{Ovs, OvsBridge, OvsIds, OvsInterface, OvsPort};

pub mod db;

/// Where ovsdb-server listens.
pub const SOCKET: &str = "/run/openvswitch/db.sock";

/// Keys to set, or to delete where None.
pub type Change = BTreeMap<String, Option<String>>;

/// The database.
#[derive(Debug, Clone)]
pub struct Database {
    socket: PathBuf,
}

impl Default for Database {
    fn default() -> Self {
        Database { socket: SOCKET.into() }
    }
}

const BRIDGE: &[&str] = &[
    "_uuid",
    "name",
    "ports",
    "stp_enable",
    "rstp_enable",
    "mcast_snooping_enable",
    "fail_mode",
    "datapath_type",
    "external_ids",
    "other_config",
];
const PORT: &[&str] = &[
    "_uuid",
    "name",
    "interfaces",
    "vlan_mode",
    "tag",
    "trunks",
    "bond_mode",
    "lacp",
    "bond_updelay",
    "bond_downdelay",
    "external_ids",
    "other_config",
];
const INTERFACE: &[&str] = &[
    "_uuid",
    "name",
    "type",
    "options",
    "ofport",
    "error",
    "external_ids",
    "other_config",
];
const GLOBAL: &[&str] = &["external_ids", "other_config"];

impl Database {
    /// At another socket.
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Database { socket: socket.into() }
    }

    /// Somebody may be listening.
    pub fn is_there(&self) -> bool {
        self.socket.exists()
    }

    /// Everything that we show of it; None where nobody answers.
    pub async fn read(&self) -> Option<Ovs> {
        if !self.is_there() {
            return None;
        }
        let select =
            |table: &str, columns: &[&str]| json!({"op": "select", "table": table, "where": [], "columns": columns});
        let all = vec![
            select("Bridge", BRIDGE),
            select("Port", PORT),
            select("Interface", INTERFACE),
            select("Open_vSwitch", GLOBAL),
        ];
        match db::transact(&self.socket, all).await {
            Ok(results) => Some(joined(&results)),
            Err(e) => {
                warn!("{e}");
                None
            }
        }
    }

    /// Changes keys of the global row.
    pub async fn change(&self, external_ids: &Change, other_config: &Change) -> Result<(), HostError> {
        let mutations: Vec<Value> = mutations("external_ids", external_ids)
            .into_iter()
            .chain(mutations("other_config", other_config))
            .collect();
        let mutate = json!({"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": mutations});
        db::transact(&self.socket, vec![mutate]).await.map(|_| ())
    }
}

/// An insert does not replace a key that is there: each is deleted first.
fn mutations(column: &str, change: &Change) -> Vec<Value> {
    let keys: Vec<&String> = change.keys().collect();
    let pairs: Vec<_> = change.iter().filter_map(|(k, v)| Some((k, v.as_ref()?))).collect();
    let mut all = vec![];
    if !keys.is_empty() {
        all.push(json!([column, "delete", ["set", keys]]));
    }
    if !pairs.is_empty() {
        all.push(json!([column, "insert", ["map", pairs]]));
    }
    all
}

/// Rows name one another by uuid; we by name.
pub(crate) fn joined(results: &[Value]) -> Ovs {
    let rows = |at: usize| {
        let rows = results.get(at).and_then(|r| r.get("rows"));
        rows.and_then(Value::as_array).map_or(&[][..], Vec::as_slice)
    };
    let names = |at: usize| -> HashMap<&str, &str> {
        let named = |row| Some((*refs(row, "_uuid").first()?, text(row, "name")?));
        rows(at).iter().filter_map(named).collect()
    };
    let members = |row: &Value, column: &str, names: &HashMap<&str, &str>| {
        let found = refs(row, column).into_iter().filter_map(|uuid| names.get(uuid));
        let mut found: Vec<String> = found.map(|name| (*name).to_owned()).collect();
        found.sort();
        found
    };
    let (port_names, interface_names) = (names(1), names(2));
    let by_name = |row: &Value| text(row, "name").unwrap_or_default().to_owned();
    let mut ovs = Ovs {
        bridges: rows(0)
            .iter()
            .map(|row| (by_name(row), bridge(row, members(row, "ports", &port_names))))
            .collect(),
        ports: rows(1)
            .iter()
            .map(|row| (by_name(row), port(row, members(row, "interfaces", &interface_names))))
            .collect(),
        interfaces: rows(2).iter().map(|row| (by_name(row), interface(row))).collect(),
        ids: rows(3).first().map(ids).unwrap_or_default(),
    };
    ovs.tell_members();
    ovs
}

fn bridge(row: &Value, ports: Vec<String>) -> OvsBridge {
    let on = |column: &str| row.get(column) == Some(&Value::Bool(true));
    let word = |column: &str| text(row, column).unwrap_or_default().to_owned();
    OvsBridge {
        ports,
        stp: on("stp_enable"),
        rstp: on("rstp_enable"),
        mcast_snooping: on("mcast_snooping_enable"),
        fail_mode: word("fail_mode"),
        datapath: word("datapath_type"),
        ids: ids(row),
    }
}

fn port(row: &Value, interfaces: Vec<String>) -> OvsPort {
    let word = |column: &str| text(row, column).map(str::to_owned);
    let number = |value: &Value| value.as_u64().and_then(|n| u16::try_from(n).ok());
    let delay = |column: &str| row.get(column).and_then(Value::as_u64).unwrap_or(0);
    let mut trunks: Vec<u16> = atoms(row, "trunks").into_iter().filter_map(number).collect();
    trunks.sort_unstable();
    OvsPort {
        bridge: String::new(),
        interfaces,
        vlan_mode: word("vlan_mode"),
        tag: atoms(row, "tag").into_iter().find_map(number),
        trunks,
        bond_mode: word("bond_mode"),
        lacp: word("lacp"),
        updelay: delay("bond_updelay").try_into().unwrap_or(u32::MAX),
        downdelay: delay("bond_downdelay").try_into().unwrap_or(u32::MAX),
        ids: ids(row),
    }
}

fn interface(row: &Value) -> OvsInterface {
    OvsInterface {
        port: String::new(),
        bridge: String::new(),
        kind: text(row, "type").unwrap_or_default().to_owned(),
        options: map(row, "options"),
        ofport: row
            .get("ofport")
            .and_then(Value::as_i64)
            .and_then(|n| n.try_into().ok()),
        error: text(row, "error").map(str::to_owned),
        ids: ids(row),
    }
}

fn ids(row: &Value) -> OvsIds {
    OvsIds {
        external_ids: map(row, "external_ids"),
        other_config: map(row, "other_config"),
    }
}

/// RFC 7047 writes a set of one as the thing itself, others as `["set", […]]`.
fn atoms<'a>(row: &'a Value, column: &str) -> Vec<&'a Value> {
    let Some(value) = row.get(column) else { return vec![] };
    match value.as_array().map(Vec::as_slice) {
        Some([Value::String(word), Value::Array(list)]) if word == "set" => list.iter().collect(),
        _ => vec![value],
    }
}

fn text<'a>(row: &'a Value, column: &str) -> Option<&'a str> {
    atoms(row, column).into_iter().find_map(Value::as_str)
}

/// Rows referred to, by uuid (`["uuid", "…"]`).
fn refs<'a>(row: &'a Value, column: &str) -> Vec<&'a str> {
    let uuid = |value: &'a Value| match value.as_array().map(Vec::as_slice) {
        Some([Value::String(word), Value::String(uuid)]) if word == "uuid" => Some(uuid.as_str()),
        _ => None,
    };
    atoms(row, column).into_iter().filter_map(uuid).collect()
}

/// `["map", [["key", "value"], …]]`
fn map(row: &Value, column: &str) -> BTreeMap<String, String> {
    let pairs = row.get(column).and_then(|v| v.get(1)).and_then(Value::as_array);
    let pair = |p: &Value| Some((p.get(0)?.as_str()?.to_owned(), p.get(1)?.as_str()?.to_owned()));
    pairs.into_iter().flatten().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_joined_by_name() {
        let results = [
            json!({"rows": [{"_uuid": ["uuid", "b"], "name": "br0", "ports": ["set", [["uuid", "p2"], ["uuid", "p1"]]],
                "stp_enable": true, "rstp_enable": false, "mcast_snooping_enable": false, "fail_mode": ["set", []],
                "datapath_type": "netdev", "external_ids": ["map", [["NM.connection.uuid", "x"]]], "other_config": ["map", []]}]}),
            json!({"rows": [
                {"_uuid": ["uuid", "p1"], "name": "bond0", "interfaces": ["set", [["uuid", "i1"], ["uuid", "i2"]]], "tag": 5,
                 "trunks": ["set", [7, 6]], "vlan_mode": "trunk", "bond_mode": "balance-slb", "lacp": ["set", []], "bond_updelay": 3,
                 "bond_downdelay": 0, "external_ids": ["map", []], "other_config": ["map", []]},
                {"_uuid": ["uuid", "p2"], "name": "br0", "interfaces": ["uuid", "i3"], "tag": ["set", []], "trunks": ["set", []]}]}),
            json!({"rows": [
                {"_uuid": ["uuid", "i1"], "name": "eth1", "type": "system", "options": ["map", []], "error": ["set", []]},
                {"_uuid": ["uuid", "i2"], "name": "eth2", "type": "", "error": "no such device"},
                {"_uuid": ["uuid", "i3"], "name": "br0", "type": "internal"}]}),
            json!({"rows": [{"external_ids": ["map", [["a", "1"]]], "other_config": ["map", []]}]}),
        ];
        let ovs = joined(&results);
        let bridge = &ovs.bridges["br0"];
        assert_eq!(bridge.ports, ["bond0", "br0"]);
        assert_eq!(
            (bridge.stp, bridge.fail_mode.as_str(), bridge.ids.nm_uuid()),
            (true, "", Some("x"))
        );
        let port = &ovs.ports["bond0"];
        assert_eq!((port.tag, &port.trunks[..], port.updelay), (Some(5), &[6, 7][..], 3));
        assert_eq!(port.lacp, None);
        assert_eq!(ovs.ports["br0"].tag, None);
        let eth2 = &ovs.interfaces["eth2"];
        assert_eq!((eth2.port.as_str(), eth2.bridge.as_str()), ("bond0", "br0"));
        assert_eq!(eth2.error.as_deref(), Some("no such device"));
        assert_eq!(ovs.ids.external_ids["a"], "1");
    }

    #[test]
    fn a_key_that_is_there_is_replaced() {
        let change = Change::from([("a".to_owned(), Some("1".to_owned())), ("b".to_owned(), None)]);
        assert_eq!(
            mutations("external_ids", &change),
            [
                json!(["external_ids", "delete", ["set", ["a", "b"]]]),
                json!(["external_ids", "insert", ["map", [["a", "1"]]]])
            ]
        );
    }
}
