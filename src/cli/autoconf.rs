//! `netwright autoconf`: VLANs that switches announce by LLDP become interfaces.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Value, json};

use super::{apply, output, show};
use crate::error::Invalid;
use crate::journal::Lock;
use crate::state::NetworkState;

/// Flags of `netwright autoconf`.
#[derive(Debug, Args)]
pub struct Autoconf {
    /// Only these network cards, with commas between.
    only: Option<String>,
    /// Print the document without applying it.
    #[arg(short, long)]
    dry_run: bool,
    #[command(flatten)]
    how: apply::How,
}

/// Reads the neighbours once, makes the document and applies it.
pub async fn run(args: Autoconf) -> anyhow::Result<()> {
    let state = show::current(false).await?;
    let only: Option<Vec<&str>> = args.only.as_ref().map(|o| o.split(',').map(str::trim).collect());
    let document = document(&state, only.as_deref())?;
    output::print(&document, false)?;
    if !args.dry_run && !document.interfaces.is_empty() {
        let _lock = Lock::take(&args.how.state_dir)?;
        apply::one(&document, &args.how).await?;
    }
    Ok(())
}

/// A VLAN heard on one card becomes a VLAN interface on it, named as the switch names it; one heard on several gets a bond of them below.
pub fn document(state: &NetworkState, only: Option<&[&str]>) -> Result<NetworkState, Invalid> {
    for name in only.into_iter().flatten() {
        if !state.interfaces.iter().any(|i| i.name() == *name) {
            return Err(Invalid::new("ONLY", format!("this node has no interface '{name}'")));
        }
    }
    let mut heard: BTreeMap<(u64, String), Vec<String>> = BTreeMap::new();
    for interface in state
        .interfaces
        .iter()
        .filter(|i| only.is_none_or(|o| o.contains(&i.name())))
    {
        let neighbours = interface.parts.lldp.as_ref().and_then(|l| l.neighbors.as_ref());
        for vlan in neighbours.into_iter().flat_map(vlans) {
            let cards = heard.entry(vlan).or_default();
            if !cards.iter().any(|c| c == interface.name()) {
                cards.push(interface.name().to_owned());
            }
        }
    }
    let mut interfaces = vec![];
    for ((id, name), cards) in heard {
        let base = match cards.as_slice() {
            [card] => card.clone(),
            cards => {
                let bond = format!("bond{id}");
                interfaces.push(json!({
                    "name": bond, "type": "bond", "state": "up",
                    "link-aggregation": {"mode": "balance-rr", "port": cards},
                }));
                bond
            }
        };
        interfaces.push(json!({
            "name": name, "type": "vlan", "state": "up", "vlan": {"base-iface": base, "id": id},
        }));
    }
    NetworkState::from_json(json!({ "interfaces": interfaces }))
}

/// Id and name of each VLAN in the TLVs of a card's neighbours.
fn vlans(neighbours: &Value) -> Vec<(u64, String)> {
    let lists = neighbours.as_array().into_iter().flatten();
    let tlvs = lists.flat_map(|n| n.as_array().into_iter().flatten());
    tlvs.filter_map(|tlv| tlv.get("ieee-802-1-vlans")?.as_array())
        .flatten()
        .filter_map(|v| Some((v.get("vid")?.as_u64()?, v.get("name")?.as_str()?.trim().to_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(name: &str, vlans: Value) -> Value {
        json!({
            "name": name, "type": "ethernet",
            "lldp": {"enabled": true, "neighbors": [[{"type": 5, "system-name": "s"}, {"type": 127, "ieee-802-1-vlans": vlans}]]},
        })
    }

    #[test]
    fn one_card_gets_a_vlan_and_two_get_a_bond_below() {
        let cards = [
            heard("eth1", json!([{"name": "blue", "vid": 5}, {"name": "red", "vid": 6}])),
            heard("eth2", json!([{"name": "red", "vid": 6}])),
        ];
        let state = NetworkState::from_json(json!({ "interfaces": cards })).unwrap();
        let all = document(&state, None).unwrap();
        let names: Vec<&str> = all.interfaces.iter().map(|i| i.name()).collect();
        assert_eq!(names, ["blue", "bond6", "red"]);
        let one = document(&state, Some(&["eth1"])).unwrap();
        assert!(one.interfaces.iter().all(|i| i.kind.type_name() == "vlan"));
        assert!(document(&state, Some(&["eth9"])).is_err());
    }
}
