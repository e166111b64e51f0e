//! What every interface may carry: name, state, addresses of the link, membership.

use serde::{Deserialize, Serialize};

use crate::error::Invalid;
use crate::facts::{Facts, Link, SavedProfile};
use crate::profile::Profile;
use crate::scalar::{self, Id, Space};
use crate::state::part::alt_names;

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
    /// Never touched. `unknown` is what an older `show` said of what it could not tell.
    #[serde(alias = "unknown")]
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
    /// By `pci-address`; `name` is the profile's.
    PciAddress,
}

/// `wait-ip`: which families must have an address before the interface counts as up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WaitIp {
    /// Either one.
    Any,
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// Both.
    #[serde(rename = "ipv4+ipv6")]
    Both,
}

impl WaitIp {
    /// Waits for this family.
    pub fn needs(self, ipv6: bool) -> bool {
        match self {
            WaitIp::Any => false,
            WaitIp::Ipv4 => !ipv6,
            WaitIp::Ipv6 => ipv6,
            WaitIp::Both => true,
        }
    }

    /// By NetworkManager's `may-fail`, which is true where it is left out.
    fn from_profile(profile: &Profile) -> Self {
        let needs = |section: &str| profile.bool(section, "may-fail") == Some(false);
        match (needs("ipv4"), needs("ipv6")) {
            (false, false) => WaitIp::Any,
            (true, false) => WaitIp::Ipv4,
            (false, true) => WaitIp::Ipv6,
            (true, true) => WaitIp::Both,
        }
    }
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
    /// `0000:00:1f.4`, or without its domain where that is 0000.
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
    /// Default any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ip: Option<WaitIp>,
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
    /// Take the MAC address that this interface was made with; wins over `mac-address`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_mac_from: Option<String>,
    /// Extra kernel names; those not listed stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alt_names: Option<Vec<AltName>>,
}

/// How names begin that mean a virtual function: `sriov:eth1:2`.
pub const VIRTUAL_FUNCTION: &str = "sriov:";

/// A PCI address as the kernel writes it; None where it is none.
pub fn pci(text: &str) -> Option<String> {
    let full = if text.matches(':').count() == 1 {
        format!("0000:{text}")
    } else {
        text.to_owned()
    };
    let (front, function) = full.split_once('.')?;
    let parts: Vec<&str> = front.split(':').collect();
    let hex = |text: &str, digits: usize| text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
    let [domain, bus, device] = parts[..] else { return None };
    let ok = hex(domain, 4) && hex(bus, 2) && hex(device, 2) && hex(function, 1);
    ok.then(|| full.to_ascii_lowercase())
}

/// `MAX_VAL_LEN` of nm-setting-user.c.
const DESCRIPTION_BYTES: usize = 8 * 1024;
/// A file's name has 255 bytes; NetworkManager adds `.nmconnection` and, while it writes, seven more.
const PROFILE_NAME_BYTES: usize = 235;

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
        "wait-ip",
        "controller",
        "accept-all-mac-addresses",
        "copy-mac-from",
        "alt-names",
    ];

    /// Keys that are only read: dropped from a wish.
    pub const READ_ONLY: &'static [&'static str] = &["driver", "permanent-mac-address", "min-mtu", "max-mtu"];

    /// Where the description lives in a profile (`user.data`).
    const DESCRIPTION: &'static str = "nmstate.interface.description";

    /// Faults that can be told without looking at the node.
    pub fn validate(&self, space: Space) -> Result<(), Invalid> {
        if space == Space::Vpn && self.name.is_empty() {
            return Err(Invalid::new("name", "a VPN needs a name"));
        }
        let by_name = self.identifier.unwrap_or_default() == Identifier::Name;
        // a longer name may still be an alt-name of an existing link: `plan::resolve` decides
        let plain = by_name && self.name.len() <= 15 && space != Space::Vpn && !self.name.starts_with(VIRTUAL_FUNCTION);
        if let Some(why) = scalar::bad_interface_name(&self.name).filter(|_| plain) {
            return Err(Invalid::new("name", why));
        }
        if let Some(text) = &self.mac_address
            && scalar::mac(text).is_none()
        {
            return Err(Invalid::new("mac-address", format!("'{text}' is not a MAC address")));
        }
        if let Some(text) = self.pci_address.as_deref().filter(|t| pci(t).is_none()) {
            return Err(Invalid::new(
                "pci-address",
                format!("'{text}' is not a PCI address such as 0000:00:1f.4"),
            ));
        }
        if self.profile_name.as_deref() == Some("") {
            return Err(Invalid::new("profile-name", "it must not be empty"));
        }
        match self.identifier.unwrap_or_default() {
            Identifier::MacAddress if self.mac_address.is_none() => {
                return Err(Invalid::new("identifier", "mac-address needs the key mac-address"));
            }
            Identifier::PciAddress if self.pci_address.is_none() => {
                return Err(Invalid::new("identifier", "pci-address needs the key pci-address"));
            }
            _ => {}
        }
        for (key, text, most, why) in [
            (
                "description",
                &self.description,
                DESCRIPTION_BYTES,
                "NetworkManager keeps",
            ),
            (
                "profile-name",
                &self.profile_name,
                PROFILE_NAME_BYTES,
                "a file's name can hold",
            ),
        ] {
            if let Some(len) = text.as_ref().map(String::len).filter(|len| *len > most) {
                return Err(Invalid::new(
                    key,
                    format!("it has {len} bytes, more than the {most} that {why}"),
                ));
            }
        }
        alt_names::validate(self.alt_names.as_deref().unwrap_or_default())
    }

    /// What the kernel and the active profile say.
    pub fn from_facts(link: &Link, facts: &Facts) -> Self {
        Base::of(&Id::kernel(&link.name), link, facts)
    }

    /// The same for what may be no kernel link: `link` is then what one would be.
    pub fn of(id: &Id, link: &Link, facts: &Facts) -> Self {
        let device = facts.device_of(id);
        let active = device.filter(|d| !d.external()).and_then(|d| d.active.as_ref());
        let saved = active.and_then(|a| facts.profile(&a.uuid));
        // of a profile that finds its device by an address, that address
        let bound = saved.and_then(SavedProfile::bound_to);
        let profile = saved.map(|p| &p.profile);
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
            identifier: profile.map(Self::identifier),
            mac_address: bound.or_else(|| link.mac.clone()),
            permanent_mac_address: link.permanent_mac.clone(),
            pci_address: link.pci_address.clone(),
            mtu: link.mtu,
            min_mtu: link.min_mtu.filter(|v| *v > 0),
            max_mtu: link.max_mtu.filter(|v| *v > 0),
            wait_ip: profile.map(WaitIp::from_profile),
            controller,
            accept_all_mac_addresses: Some(link.promiscuous),
            copy_mac_from: None, // a way to say mac-address
            alt_names: (!link.alt_names.is_empty()).then(|| link.alt_names.iter().map(alt).collect()),
        }
    }

    /// `connection.id` where the user gives no name.
    fn default_id(name: &str, profile: &Profile) -> String {
        let nm_type = profile.str("connection", "type").unwrap_or_default();
        format!("{name}{}", super::AnyKind::id_suffix(nm_type))
    }

    /// What NetworkManager and the kernel say of its state; what NetworkManager leaves alone is ignored.
    pub fn state(id: &Id, link: &Link, facts: &Facts) -> State {
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

    /// By what a profile finds its device.
    fn identifier(profile: &Profile) -> Identifier {
        match profile.str("connection", "interface-name") {
            Some(_) => Identifier::Name,
            None if profile.get("802-3-ethernet", "mac-address").is_some() => Identifier::MacAddress,
            None if !profile.strs("match", "path").is_empty() => Identifier::PciAddress,
            None => Identifier::Name,
        }
    }

    /// Free text that we keep in a profile.
    pub(super) fn description(profile: &Profile) -> Option<String> {
        profile.note(Self::DESCRIPTION).map(str::to_owned)
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
            pci_address,
            state: _,
            wait_ip,
            controller: _,    // written with the controller's settings
            copy_mac_from: _, // has become mac_address
            alt_names: _,     // kept outside the profile
        } = self;
        if let Some(id) = profile_name {
            profile.put("connection", "id", id.clone());
        } else if profile.str("connection", "id").is_none() {
            profile.put("connection", "id", Self::default_id(name, profile));
        }
        if let Some(text) = description {
            profile.put_note(Self::DESCRIPTION, text);
        }
        if let Some(wait) = wait_ip {
            profile.put("ipv4", "may-fail", !wait.needs(false));
            profile.put("ipv6", "may-fail", !wait.needs(true));
        }
        // the device is found by one of three, and another one must not stand in the way
        match identifier {
            Some(Identifier::PciAddress) => {
                let path = pci_address.as_deref().and_then(pci).unwrap_or_default();
                profile.put("match", "path", vec![format!("pci-{path}")]);
                profile.remove("802-3-ethernet", "mac-address");
            }
            Some(Identifier::MacAddress) => profile.remove("match", "path"),
            Some(Identifier::Name) | None => {}
        }
        let by_mac = *identifier == Some(Identifier::MacAddress);
        if let Some(mac) = mac_address.as_deref().and_then(scalar::mac_bytes) {
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
            // only Ethernet knows the mode; of others it is refused before
            if let Some(all) = accept_all_mac_addresses.filter(|_| setting == "802-3-ethernet") {
                profile.put(setting, "accept-all-mac-addresses", i32::from(all));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses() {
        for text in ["00:14.3", "0000:00:14.3"] {
            assert_eq!(pci(text).as_deref(), Some("0000:00:14.3"));
        }
        assert_eq!(pci("0000:AF:1f.0").as_deref(), Some("0000:af:1f.0"));
        for bad in ["", "14.3", "00:14", "00:14.33", "0:0:14.3", "00:1g.3", "a:00:00:14.3"] {
            assert_eq!(pci(bad), None, "{bad}");
        }
    }
}
