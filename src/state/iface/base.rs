//! What every interface may carry: name, state, addresses of the link, membership.

use serde::{Deserialize, Serialize};

use crate::error::Invalid;
use crate::facts::{Facts, Link};
use crate::profile::{Profile, Value};
use crate::scalar::{self, Id};

/// `state` of an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// There and active.
    #[default]
    Up,
    /// Virtual: link removed, profile kept. Physical: disconnected.
    Down,
    /// Gone, with its profiles.
    Absent,
    /// Never touched.
    Ignore,
}

/// How an entry finds its interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Identifier {
    /// By kernel name or alt-name.
    #[default]
    Name,
    /// By `mac-address`; `name` is the profile's.
    MacAddress,
}

/// One entry of `alt-names`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AltName {
    /// Up to 127 characters.
    pub name: String,
    /// `absent` removes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
}

/// Properties that any type may have.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Base {
    /// Kernel name; or alt-name, or the profile's name where `identifier` is not `name`.
    pub name: String,
    /// NetworkManager's `connection.id`, where it is not the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile_name: Option<String>,
    /// Free text, kept in the profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Kernel driver; only read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Default up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Default name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identifier: Option<Identifier>,
    /// The address it has or shall have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
    /// Burned in; only read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permanent_mac_address: Option<String>,
    /// `0000:00:1f.4`; only read for now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_address: Option<String>,
    /// Bytes.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub mtu: Option<u32>,
    /// Bytes; only read.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub min_mtu: Option<u32>,
    /// Bytes; only read.
    #[serde(
        default,
        deserialize_with = "scalar::opt_int",
        skip_serializing_if = "Option::is_none"
    )]
    pub max_mtu: Option<u32>,
    /// Name of the controller; empty detaches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
    /// IFF_PROMISC.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub accept_all_mac_addresses: Option<bool>,
    /// Extra kernel names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alt_names: Option<Vec<AltName>>,
}

impl Base {
    /// Keys in the order in which they are printed.
    pub const KEYS: &'static [&'static str] = &[
        "name",
        "profile-name",
        "description",
        "driver",
        "state",
        "identifier",
        "mac-address",
        "permanent-mac-address",
        "pci-address",
        "mtu",
        "min-mtu",
        "max-mtu",
        "controller",
        "accept-all-mac-addresses",
        "alt-names",
    ];

    /// Keys that are only read: dropped from a wish.
    pub const READ_ONLY: &'static [&'static str] = &["driver", "permanent-mac-address", "min-mtu", "max-mtu"];

    /// Where the description lives in a profile (`user.data`).
    const DESCRIPTION: &'static str = "nmstate.interface.description";

    /// Faults that can be told without looking at the node.
    pub fn validate(&self) -> Result<(), Invalid> {
        let by_name = self.identifier.unwrap_or_default() == Identifier::Name;
        // a longer name may still be an alt-name of an existing link: `plan::resolve` decides
        if let Some(why) = scalar::bad_interface_name(&self.name).filter(|_| by_name && self.name.len() <= 15) {
            return Err(Invalid::new("name", why));
        }
        if let Some(text) = &self.mac_address
            && scalar::mac(text).is_none()
        {
            return Err(Invalid::new("mac-address", format!("'{text}' is not a MAC address")));
        }
        if !by_name && self.mac_address.is_none() {
            return Err(Invalid::new("identifier", "mac-address needs the key mac-address"));
        }
        Ok(())
    }

    /// What the kernel and the active profile say.
    pub fn from_facts(link: &Link, facts: &Facts) -> Self {
        Base::of(&Id::kernel(&link.name), link, facts)
    }

    /// The same for what may be no kernel link: `link` is then what one would be.
    pub fn of(id: &Id, link: &Link, facts: &Facts) -> Self {
        let device = facts.device_of(id);
        let active = device.filter(|d| !d.external()).and_then(|d| d.active.as_ref());
        let profile = active.and_then(|a| facts.profile(&a.uuid)).map(|p| &p.profile);
        let profile_name = profile.and_then(|p| p.str("connection", "id"));
        let default = profile.map(|p| Self::default_id(&link.name, p)).unwrap_or_default();
        // the kernel only knows ovs-system, which all bridges of Open vSwitch share
        let ovs = facts.ovs_interface(&link.name).map(|i| i.bridge.clone());
        let kernel = || facts.link_by_index(link.controller?).map(|l| l.name.clone());
        let controller = ovs.or_else(kernel);
        let alt = |n: &String| AltName {
            name: n.clone(),
            state: None,
        };
        Base {
            name: link.name.clone(),
            profile_name: profile_name.filter(|n| *n != default).map(str::to_owned),
            description: profile.and_then(Self::description).filter(|d| !d.is_empty()),
            driver: link.driver.clone(),
            state: Some(Self::state(id, link, facts)),
            identifier: profile.map(|_| Identifier::Name),
            mac_address: link.mac.clone(),
            permanent_mac_address: link.permanent_mac.clone(),
            pci_address: link.pci_address.clone(),
            mtu: link.mtu,
            min_mtu: link.min_mtu.filter(|v| *v > 0),
            max_mtu: link.max_mtu.filter(|v| *v > 0),
            controller,
            accept_all_mac_addresses: Some(link.promiscuous),
            alt_names: (!link.alt_names.is_empty()).then(|| link.alt_names.iter().map(alt).collect()),
        }
    }

    /// `connection.id` where the user gives no name.
    fn default_id(name: &str, profile: &Profile) -> String {
        let nm_type = profile.str("connection", "type").unwrap_or_default();
        format!("{name}{}", super::AnyKind::id_suffix(nm_type))
    }

    fn state(id: &Id, link: &Link, facts: &Facts) -> State {
        let up = link.admin_up && link.running;
        let foreign = |row: &crate::facts::OvsInterface| row.kind == "internal" && row.ids.nm_uuid().is_none();
        match facts.device_of(id) {
            // NetworkManager calls it disconnected, but it is up and others use it
            _ if facts.ovs_interface(&link.name).is_some_and(foreign) => State::Ignore,
            Some(d) if d.state <= 10 => State::Ignore,
            // 20 unavailable, 30 disconnected: NetworkManager holds it down
            Some(d) if d.state <= 30 => State::Down,
            None if !facts.nm_version.is_empty() && link.arphrd != 772 => State::Ignore,
            _ if up || link.admin_up => State::Up,
            _ => State::Down,
        }
    }

    fn description(profile: &Profile) -> Option<String> {
        match profile.get("user", "data")? {
            Value::StrMap(map) => map.get(Self::DESCRIPTION).cloned(),
            _ => None,
        }
    }

    /// Writes name, description, MAC and MTU. The settings key for MAC and MTU depends on the type: `link_setting`.
    pub fn to_profile(&self, link_setting: Option<&str>, profile: &mut Profile) {
        let Base {
            name,
            profile_name,
            description,
            identifier,
            mac_address,
            mtu,
            accept_all_mac_addresses,
            driver: _,
            permanent_mac_address: _,
            min_mtu: _,
            max_mtu: _,
            pci_address: _,
            state: _,
            controller: _, // written with the controller's settings
            alt_names: _,  // kept outside the profile
        } = self;
        if let Some(id) = profile_name {
            profile.put("connection", "id", id.clone());
        } else if profile.str("connection", "id").is_none() {
            profile.put("connection", "id", Self::default_id(name, profile));
        }
        if let Some(text) = description {
            let mut data = match profile.get("user", "data") {
                Some(Value::StrMap(map)) => map.clone(),
                _ => Default::default(),
            };
            match text.as_str() {
                "" => data.remove(Self::DESCRIPTION),
                text => data.insert(Self::DESCRIPTION.to_owned(), text.to_owned()),
            };
            profile.put("user", "data", data);
        }
        let by_mac = *identifier == Some(Identifier::MacAddress);
        let bytes = |text: &String| -> Option<Vec<u8>> {
            text.split([':', '-']).map(|p| u8::from_str_radix(p, 16).ok()).collect()
        };
        if let Some(mac) = mac_address.as_ref().and_then(bytes) {
            let (setting, key) = match by_mac {
                true => (link_setting.unwrap_or("802-3-ethernet"), "mac-address"),
                false => ("802-3-ethernet", "cloned-mac-address"),
            };
            profile.put(setting, key, mac);
        }
        if let Some(setting) = link_setting {
            if let Some(mtu) = mtu {
                profile.put(setting, "mtu", *mtu);
            }
            if let Some(all) = accept_all_mac_addresses {
                profile.put(setting, "accept-all-mac-addresses", i32::from(*all));
            }
        }
    }
}
