//! `type: vrf`: its ports route by a table of their own. Section `vrf`: that table and the ports.

use netlink_packet_route::link::{InfoData, InfoVrf};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Context, Kind};
use crate::error::Invalid;
use crate::facts::{Facts, Link};
use crate::profile::Profile;
use crate::scalar;
use crate::state::part::ip::Ip;

/// A routing table with its ports.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vrf {
    /// Table and ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vrf: Option<Section>,
}

/// Section `vrf`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Section {
    /// Names of the ports; replaces the list.
    #[serde(default, alias = "ports", skip_serializing_if = "Option::is_none")]
    pub port: Option<Vec<String>>,
    /// Above 0; left out or 0 keeps it.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub route_table_id: Option<u32>,
}

impl Section {
    fn table(&self) -> Option<u32> {
        self.route_table_id.filter(|t| *t != 0)
    }
}

impl Kind for Vrf {
    const TYPE: &'static str = "vrf";
    const SECTIONS: &'static [&'static str] = &["vrf"];
    const NM_TYPE: &'static str = "vrf";
    const VIRTUAL: bool = true;
    const CONTROLLER: bool = true;
    const PORT_TYPE: &'static str = "vrf";
    const PORTS_CARRY_IP: bool = true;
    const PORTS_PATH: &'static str = "vrf.port";

    fn from_facts(link: &Link, facts: &Facts) -> Self {
        let info: &[InfoVrf] = match &link.data {
            Some(InfoData::Vrf(info)) => info,
            _ => &[],
        };
        let table = info.iter().find_map(|i| match i {
            InfoVrf::TableId(table) => Some(*table),
            _ => None,
        });
        let mut ports: Vec<String> = facts.ports_of(link.index).iter().map(|l| l.name.clone()).collect();
        ports.sort();
        Vrf {
            vrf: Some(Section {
                port: Some(ports),
                route_table_id: table,
            }),
        }
    }

    fn complete_ip(_ipv6: bool, _ip: &mut Ip, _current: Option<&Ip>) -> Result<(), Invalid> {
        Ok(())
    }

    fn route_table(&self) -> Option<u32> {
        self.vrf.as_ref()?.table()
    }

    fn to_link(profile: &Profile, link: &mut Link, _index: &dyn Fn(&str) -> Option<u32>) {
        let table = profile.int("vrf", "table").and_then(|t| t.try_into().ok());
        link.data = Some(InfoData::Vrf(vec![InfoVrf::TableId(table.unwrap_or(0))]));
    }

    fn validate(&self, cx: &Context<'_>) -> Result<(), Invalid> {
        if cx.new && self.vrf.as_ref().and_then(Section::table).is_none() {
            return Err(Invalid::new("vrf.route-table-id", "a new VRF needs a table above 0"));
        }
        let ports = self.vrf.iter().flat_map(|s| s.port.iter().flatten());
        let mut met = vec![];
        for (i, name) in ports.enumerate() {
            let at = format!("vrf.port[{i}]");
            if let Some(why) = scalar::bad_interface_name(name) {
                return Err(Invalid::new(at, why));
            }
            if met.contains(&name) {
                return Err(Invalid::new(at, format!("port '{name}' is listed twice")));
            }
            met.push(name);
        }
        Ok(())
    }

    fn complete(&mut self, current: Option<&Self>) -> Result<(), Invalid> {
        let now = current.and_then(|c| c.vrf.as_ref()?.table());
        if let Some(section) = &mut self.vrf {
            section.route_table_id = section.table().or(now);
        }
        Ok(())
    }

    /// The kernel makes one up, and packets never carry it.
    fn drops_mac(&self) -> Option<&'static str> {
        Some("")
    }

    fn ports(&self) -> Option<Vec<String>> {
        self.vrf.as_ref()?.port.clone()
    }

    fn set_ports(&mut self, names: &[String]) {
        self.vrf.get_or_insert_default().port = Some(names.to_vec());
    }

    fn rename(&mut self, f: &mut dyn FnMut(&mut String)) {
        let ports = self.vrf.iter_mut().flat_map(|s| s.port.iter_mut().flatten());
        ports.for_each(f);
    }

    fn to_profile(&self, profile: &mut Profile) {
        let Vrf { vrf } = self;
        profile.ensure("vrf");
        let Some(Section {
            port: _, // in the profiles of the ports
            route_table_id,
        }) = vrf
        else {
            return;
        };
        if let Some(table) = route_table_id.filter(|t| *t != 0) {
            profile.put("vrf", "table", table);
        }
    }

    fn normalise(tree: &mut Map<String, Value>) {
        let Some(Value::Object(section)) = tree.get_mut("vrf") else {
            return;
        };
        if let Some(Value::Array(names)) = section.remove("port") {
            let entry = |name: Value| {
                let key = name.as_str().unwrap_or_default().to_owned();
                (key, Value::Object(Map::from_iter([("name".to_owned(), name)])))
            };
            section.insert("port".into(), Value::Object(names.into_iter().map(entry).collect()));
        }
    }

    /// The kernel sets the table once.
    fn must_recreate(&self, current: &Self) -> bool {
        let table = |v: &Vrf| v.vrf.as_ref().and_then(Section::table);
        matches!((table(self), table(current)), (Some(a), Some(b)) if a != b)
    }
}
