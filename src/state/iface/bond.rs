//! `type: bond`: several links as one. Section `link-aggregation`: mode, options by the kernel's names, ports.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_route::link::{InfoBond, InfoBondPort, InfoData, InfoPortData};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Context, Kind};
use crate::error::Invalid;
use crate::facts::{Facts, Link};
use crate::profile::{self, Profile};
use crate::scalar;

mod options;

pub use options::{Mode, Options};

/// Several links as one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bond {
    /// Mode, options and ports.
    #[serde(
        default,
        rename = "link-aggregation",
        alias = "bond",
        skip_serializing_if = "Option::is_none"
    )]
    pub bond: Option<Section>,
}

/// Section `link-aggregation`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Section {
    /// Must be given for a new bond. Another mode forgets all options.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Those left out keep their value; `{}` resets all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<Options>,
    /// Names of the ports; replaces the list.
    #[serde(default, alias = "ports", skip_serializing_if = "Option::is_none")]
    pub port: Option<Vec<String>>,
    /// The same list with what the bond wants of each port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports_config: Option<Vec<Port>>,
}

/// One port. Unknown keys are let pass here, as they always were.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Port {
    /// Interface name.
    pub name: String,
    /// The higher takes over; default 0.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub priority: Option<i32>,
    /// Transmit queue that packets may be steered to; 0 is none.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub queue_id: Option<u16>,
}

impl Port {
    fn from_facts(link: &Link) -> Self {
        let items: &[InfoBondPort] = match &link.port_data {
            Some(InfoPortData::BondPort(items)) => items,
            _ => &[],
        };
        let mut port = Port {
            name: link.name.clone(),
            ..Port::default()
        };
        for item in items {
            match item {
                InfoBondPort::Prio(v) => port.priority = Some(*v),
                InfoBondPort::QueueId(v) => port.queue_id = Some(*v),
                _ => {}
            }
        }
        port
    }
}

impl Section {
    fn port_names(&self) -> Option<Vec<String>> {
        let detailed = || Some(self.ports_config.as_ref()?.iter().map(|p| p.name.clone()).collect());
        self.port.clone().or_else(detailed)
    }

    fn validate_ports(&self) -> Result<(), Invalid> {
        let detailed: Option<Vec<&String>> = self.ports_config.as_ref().map(|l| l.iter().map(|p| &p.name).collect());
        let plain: Option<Vec<&String>> = self.port.as_ref().map(|l| l.iter().collect());
        for (key, list) in [("port", &plain), ("ports-config", &detailed)] {
            let mut met = BTreeSet::new();
            for (i, name) in list.iter().flatten().enumerate() {
                let at = format!("{key}[{i}]");
                if let Some(why) = scalar::bad_interface_name(name) {
                    return Err(Invalid::new(at, why));
                }
                if !met.insert(*name) {
                    return Err(Invalid::new(at, format!("port '{name}' is listed twice")));
                }
            }
        }
        if let (Some(plain), Some(detailed)) = (plain, detailed) {
            let (plain, detailed) = (BTreeSet::from_iter(plain), BTreeSet::from_iter(detailed));
            if let Some(name) = plain.symmetric_difference(&detailed).next() {
                let why = format!("'{name}' is in only one of port and ports-config");
                return Err(Invalid::new("ports-config", why));
            }
        }
        let mut queues = BTreeMap::new();
        for (i, port) in self.ports_config.iter().flatten().enumerate() {
            let Some(queue) = port.queue_id.filter(|q| *q != 0) else {
                continue;
            };
            if let Some(other) = queues.insert(queue, &port.name) {
                let why = format!("port '{other}' has queue {queue} already");
                return Err(Invalid::new(format!("ports-config[{i}].queue-id"), why));
            }
        }
        Ok(())
    }

    /// The options as they will be: laid over those that are, unless the wish forgets them.
    fn whole(&self, now: Option<&Section>) -> Options {
        let wish = self.options.clone().unwrap_or_default();
        let reset = self.options.as_ref().is_some_and(Options::is_empty);
        match now.filter(|now| !reset && now.mode == self.mode) {
            Some(now) => now.options.clone().unwrap_or_default().overlaid(&wish),
            None => wish,
        }
    }

    /// In this mode the bond takes the address of its active port, and nobody else's.
    fn follows_active(&self) -> bool {
        let follows = |o: &Options| o.get("fail_over_mac") == Some("active");
        self.mode == Some(Mode::ActiveBackup) && self.options.as_ref().is_some_and(follows)
    }
}

impl Kind for Bond {
    const TYPE: &'static str = "bond";
    const SECTIONS: &'static [&'static str] = &["link-aggregation", "bond"];
    const NM_TYPE: &'static str = "bond";
    const VIRTUAL: bool = true;
    const COPIES_MAC: bool = true;
    const TAKES_ANY_LINK: bool = true;
    const CONTROLLER: bool = true;
    const TAKES_FRAMES: bool = true;
    const PORT_TYPE: &'static str = "bond";
    const PORT_SETTING: &'static str = "bond-port";
    const PORTS_PATH: &'static str = "link-aggregation.port";
    const PORTS_KEEP_MAC: bool = false;

    fn from_facts(link: &Link, facts: &Facts) -> Self {
        let info: &[InfoBond] = match &link.data {
            Some(InfoData::Bond(info)) => info,
            _ => &[],
        };
        let mut ports: Vec<Port> = facts.ports_of(link.index).into_iter().map(Port::from_facts).collect();
        ports.sort_by(|a, b| a.name.cmp(&b.name));
        let (mode, options) = options::from_facts(info, link, facts);
        Bond {
            bond: Some(Section {
                mode,
                options: Some(options),
                port: Some(ports.iter().map(|p| p.name.clone()).collect()),
                ports_config: Some(ports),
            }),
        }
    }

    fn to_link(profile: &Profile, link: &mut Link, index: &dyn Fn(&str) -> Option<u32>) {
        link.data = Some(InfoData::Bond(options::to_link(profile, index)));
    }

    fn port_to_link(profile: &Profile, link: &mut Link) {
        let number = |key: &str| profile.int("bond-port", key).unwrap_or(0);
        link.port_data = Some(InfoPortData::BondPort(vec![
            InfoBondPort::Prio(number("prio").try_into().unwrap_or(0)),
            InfoBondPort::QueueId(number("queue-id").try_into().unwrap_or(0)),
        ]));
    }

    fn validate(&self, cx: &Context<'_>) -> Result<(), Invalid> {
        let section = self.bond.as_ref();
        if cx.new && section.and_then(|s| s.mode).is_none() {
            return Err(Invalid::new("link-aggregation.mode", "a new bond needs a mode"));
        }
        section.map_or(Ok(()), |s| s.validate_ports().map_err(|e| e.under("link-aggregation")))
    }

    /// The mode, without which no option means anything.
    fn complete(&mut self, current: Option<&Self>) -> Result<(), Invalid> {
        let now = current.and_then(|c| c.bond.as_ref());
        let Some(wish) = &mut self.bond else {
            // so that a MAC address that the kernel would not keep is noticed
            self.bond = now.filter(|n| n.follows_active()).map(|n| Section {
                mode: n.mode,
                options: Some(Options::from_iter([("fail_over_mac", "active")])),
                ..Section::default()
            });
            return Ok(());
        };
        wish.mode = wish.mode.or(now.and_then(|n| n.mode));
        let Some(mode) = wish.mode else { return Ok(()) };
        let ports = wish.port_names();
        let whole = wish.whole(now);
        let written = wish.options.clone().unwrap_or_default();
        options::validate(mode, &written, &whole, ports.as_deref()).map_err(|e| e.under("link-aggregation.options"))
    }

    fn drops_mac(&self) -> Option<&'static str> {
        let follows = self.bond.as_ref().is_some_and(Section::follows_active);
        follows.then_some("with fail_over_mac active the bond has the address of its active port")
    }

    fn ports(&self) -> Option<Vec<String>> {
        self.bond.as_ref()?.port_names()
    }

    fn tells_of_port(&self, port: &str) -> bool {
        let mut ports = self.bond.iter().flat_map(|b| b.ports_config.iter().flatten());
        let told = |p: &Port| p.priority.unwrap_or(0) != 0 || p.queue_id.unwrap_or(0) != 0;
        ports.find(|p| p.name == port).is_some_and(told)
    }

    fn refuses_port(&self, type_name: &str) -> Option<String> {
        let mode = self.bond.as_ref()?.mode?;
        (type_name == "infiniband" && mode != Mode::ActiveBackup)
            .then(|| format!("an infiniband port needs mode active-backup, not {}", mode.word()))
    }

    fn set_ports(&mut self, names: &[String]) {
        let section = self.bond.get_or_insert_default();
        section.port = Some(names.to_vec());
        if let Some(known) = &mut section.ports_config {
            known.retain(|p| names.contains(&p.name));
            let missing: Vec<&String> = names.iter().filter(|n| !known.iter().any(|p| p.name == **n)).collect();
            known.extend(missing.into_iter().map(|name| Port {
                name: name.clone(),
                ..Port::default()
            }));
        }
    }

    fn rename(&mut self, f: &mut dyn FnMut(&mut String)) {
        let Some(section) = &mut self.bond else { return };
        section.port.iter_mut().flatten().for_each(&mut *f);
        section
            .ports_config
            .iter_mut()
            .flatten()
            .for_each(|port| f(&mut port.name));
        if let Some(primary) = section.options.as_mut().and_then(|o| o.get_mut("primary")) {
            f(primary);
        }
    }

    fn settle(merged: &mut Map<String, Value>, desired: &Map<String, Value>, current: &Map<String, Value>) {
        let section = |map: &Map<String, Value>| {
            let tree = map.get("link-aggregation").cloned()?;
            super::from_value::<Section>(tree).ok()
        };
        let (Some(wish), Some(now)) = (section(desired), section(current)) else {
            return;
        };
        let mode = wish.mode.or(now.mode).unwrap_or_default();
        let whole = wish.whole(Some(&now)).worth_writing(mode, wish.options.as_ref());
        if let Some(Value::Object(tree)) = merged.get_mut("link-aggregation") {
            tree.insert("options".into(), super::to_value(&whole));
        }
    }

    fn to_profile(&self, profile: &mut Profile) {
        let Bond { bond } = self;
        profile.ensure("bond");
        let Some(Section {
            mode,
            options,
            port: _, // in the profiles of the ports, like the next
            ports_config: _,
        }) = bond
        else {
            return;
        };
        options::to_profile(*mode, options.as_ref(), profile);
    }

    fn port_to_profile(&self, port: &str, profile: &mut Profile) {
        profile.ensure("bond-port");
        let mut known = self.bond.iter().flat_map(|b| b.ports_config.iter().flatten());
        let Some(Port {
            name: _,
            priority,
            queue_id,
        }) = known.find(|p| p.name == port)
        else {
            return;
        };
        // the default is not written: an older NetworkManager refuses a key that it does not know
        if let Some(priority) = priority {
            profile.put_opt("bond-port", "prio", Some(*priority).filter(|p| *p != 0));
        }
        if let Some(queue) = queue_id {
            profile.put_opt("bond-port", "queue-id", Some(u32::from(*queue)).filter(|q| *q != 0));
        }
    }

    fn nm_default(setting: &str, key: &str) -> Option<profile::Value> {
        ((setting, key) == ("bond", "options"))
            .then(|| profile::Value::StrMap([("mode".to_owned(), "balance-rr".to_owned())].into()))
    }

    fn normalise(tree: &mut Map<String, Value>) {
        let Some(Value::Object(section)) = tree.get_mut("link-aggregation") else {
            return;
        };
        // order means nothing; a map by name makes the difference readable
        if let (None, Some(Value::Array(ports))) = (section.get("port"), section.get("ports-config")) {
            let names: Vec<Value> = ports.iter().filter_map(|p| p.get("name").cloned()).collect();
            section.insert("port".into(), names.into());
        }
        if let Some(Value::Array(names)) = section.remove("port") {
            let entry = |name: Value| {
                let key = name.as_str().unwrap_or_default().to_owned();
                (key, Value::Object(Map::from_iter([("name".to_owned(), name)])))
            };
            section.insert("port".into(), Value::Object(names.into_iter().map(entry).collect()));
        }
        if let Some(Value::Array(ports)) = section.remove("ports-config") {
            let entry = |mut port: Value| {
                let name = port.as_object_mut().and_then(|p| p.remove("name"));
                (name.iter().filter_map(Value::as_str).collect(), port)
            };
            let by_name: BTreeMap<String, Value> = ports.into_iter().map(entry).collect();
            section.insert("ports-config".into(), Value::Object(by_name.into_iter().collect()));
        }
        if let Some(Value::Object(options)) = section.get_mut("options") {
            options::normalise(options);
        }
    }

    fn close_enough(path: &str, want: &Value, got: &Value, current: &Map<String, Value>) -> bool {
        let options = current.get("link-aggregation").and_then(|s| s.get("options"));
        match (path.strip_prefix("link-aggregation.options."), options) {
            (Some(name), Some(Value::Object(now))) => options::close_enough(name, want, got, now),
            _ => false,
        }
    }

    /// The kernel changes the mode and some options only of a bond without ports.
    fn must_recreate(&self, current: &Self) -> bool {
        let (Some(wish), Some(now)) = (&self.bond, &current.bond) else {
            return false;
        };
        let options = wish.options.as_ref().zip(now.options.as_ref());
        matches!((wish.mode, now.mode), (Some(a), Some(b)) if a != b)
            || options.is_some_and(|(wish, now)| options::need_another_link(wish, now))
    }

    fn skip_unsupported(&mut self, _facts: &Facts) -> Option<String> {
        let section = self.bond.as_mut()?;
        let (mode, options) = (section.mode?, section.options.as_mut()?);
        let said = !options.is_empty();
        let dropped = options.drop_useless(mode);
        if said && options.is_empty() {
            section.options = None; // empty would mean to reset all
        }
        (!dropped.is_empty()).then(|| {
            format!(
                "link-aggregation.options: left out, as they mean nothing in mode {}: {}",
                mode.word(),
                dropped.join(", ")
            )
        })
    }

    fn refuse_unsupported(&self, facts: &Facts) -> Result<(), Invalid> {
        let Some(section) = &self.bond else { return Ok(()) };
        if let Some(options) = &section.options {
            options.refuse_unsupported(facts)?;
        }
        let ranked = |p: &&Port| p.priority.is_some_and(|v| v != 0);
        match section.ports_config.iter().flatten().find(ranked) {
            // 1.44, and 1.42.8 among the releases before it
            Some(_) => facts.needs_nm(
                "1.42.8",
                "link-aggregation.ports-config",
                "the priority of a bond's port",
            ),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(text: &str) -> Bond {
        let mut bond: Bond = serde_json::from_value(crate::yaml::read(text).unwrap()).unwrap();
        bond.complete(None).unwrap();
        bond
    }

    fn written(over: &str, text: &str) -> String {
        let mut profile = Profile::default();
        wish(over).to_profile(&mut profile);
        wish(text).to_profile(&mut profile);
        match profile.get("bond", "options") {
            Some(profile::Value::StrMap(map)) => map.iter().map(|(k, v)| format!("{k}={v} ")).collect(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn what_the_profile_keeps_of_options() {
        let before = "{bond: {mode: 1, options: {miimon: 140, updelay: 280, all_slaves_active: 1}}}";
        let after = |text| written(before, text);
        assert_eq!(
            after("{bond: {mode: 1, options: {resend_igmp: 2}}}"),
            "all_slaves_active=1 miimon=140 mode=active-backup resend_igmp=2 updelay=280 "
        );
        assert_eq!(after("{bond: {mode: 1, options: {}}}"), "mode=active-backup ");
        assert_eq!(after("{bond: {mode: 0}}"), "mode=balance-rr ");
        assert_eq!(
            after("{bond: {mode: 1, options: {arp_interval: 60, arp_ip_target: 192.0.2.1}}}"),
            "all_slaves_active=1 arp_interval=60 arp_ip_target=192.0.2.1 mode=active-backup "
        );
        assert_eq!(
            written(
                "{bond: {mode: 2}}",
                "{bond: {mode: 2, options: {balance_slb: on, xmit_hash_policy: 5}}}"
            ),
            "balance-slb=1 mode=balance-xor xmit_hash_policy=vlan+srcmac "
        );
    }

    #[test]
    fn infiniband_only_as_a_backup() {
        let bond = |mode| Bond {
            bond: Some(Section {
                mode: Some(mode),
                ..Section::default()
            }),
        };
        assert_eq!(bond(Mode::ActiveBackup).refuses_port("infiniband"), None);
        assert_eq!(bond(Mode::BalanceXor).refuses_port("ethernet"), None);
        let why = bond(Mode::BalanceXor).refuses_port("infiniband").unwrap();
        assert!(why.contains("active-backup"), "{why}");
    }
}
