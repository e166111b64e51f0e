//! An interface of the document, and the registry of interface types. To add a type: its file, its line in `kinds!`, its fixtures.

use std::net::Ipv6Addr;
use std::ops::Range;

use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::error::Invalid;
use crate::facts::{Facts, Link};
use crate::profile::{self, Profile};
use crate::scalar::{Id, Secret, Space};

mod base;
pub mod bond;
pub mod bridge_vlan;
pub mod dummy;
pub mod ethernet;
pub mod hsr;
pub mod infiniband;
pub mod ip_tunnel;
pub mod ipsec;
pub mod ipvlan;
pub mod linux_bridge;
pub mod loopback;
pub mod macsec;
pub mod macvlan;
pub mod other;
pub mod ovs_bridge;
pub mod ovs_interface;
pub mod ovs_port;
pub mod tun;
pub mod veth;
pub mod vlan;
pub mod vrf;
pub mod vxlan;
pub mod wireguard;
pub mod xfrm;

pub use base::{AltName, Base, Identifier, State, VIRTUAL_FUNCTION, pci};

use super::part::Parts;
use super::part::ip::{Addr, Ip};
use super::{HIDDEN, tree};

/// What a type knows about itself. All pure; the generic code asks and never matches on the type.
pub trait Kind: Clone + std::fmt::Debug + Default + PartialEq + Serialize + DeserializeOwned {
    /// `type` in the document.
    const TYPE: &'static str;
    /// Top-level keys of an interface that belong to this type.
    const SECTIONS: &'static [&'static str];
    /// `connection.type` in NetworkManager; empty where it cannot be configured.
    const NM_TYPE: &'static str;
    /// Made by software: goes away when it is absent.
    const VIRTUAL: bool;
    /// Where its name is unique.
    const SPACE: Space = Space::Kernel;
    /// The setting in which NetworkManager keeps its MTU and promiscuity; empty where it has neither.
    const LINK_SETTING: &'static str = "802-3-ethernet";
    /// What `connection.id` has behind the interface's name where the user gives no `profile-name`: things of Open vSwitch share names.
    const ID_SUFFIX: &'static str = "";
    /// Made only by us, between other interfaces: nobody writes it in a document.
    const INTERNAL: bool = false;
    /// NetworkManager has it up by itself, whatever is asked.
    const STAYS_UP: bool = false;
    /// Keys of an interface that mean nothing here: they are left out with a warning.
    const IGNORED: &'static [&'static str] = &[];
    /// Paths of secrets below the interface: `macsec/mka-cak`. Lists are walked through, with the key by which their items
    /// are told apart: `wireguard/peers[public-key]/preshared-key`.
    const SECRETS: &'static [&'static str] = &[];
    /// The same for this one; a veth whose peer is out of reach is hardware to us.
    fn is_virtual(&self) -> bool {
        Self::VIRTUAL
    }
    /// `connection.type` for this one.
    fn nm_type(&self) -> &'static str {
        Self::NM_TYPE
    }
    /// It has an Ethernet address that can be set, and may be made promiscuous.
    fn is_ethernet(&self) -> bool {
        true
    }
    /// What a profile alone tells of it: secrets, and what the kernel does not show. The sections only.
    fn from_profile(_profile: &Profile) -> Self {
        Self::default()
    }
    /// Links below it that may not carry IP addresses.
    fn strips_ip(&self) -> Vec<String> {
        vec![]
    }
    /// The links that lose their IP must have one MAC address.
    fn shares_mac(&self) -> bool {
        false
    }
    /// May have ports.
    const CONTROLLER: bool = false;
    /// `connection.slave-type` of its ports.
    const PORT_TYPE: &'static str = "";
    /// Its ports may carry IP addresses (only VRF's may).
    const PORTS_CARRY_IP: bool = false;

    /// What the kernel and NetworkManager say.
    fn from_facts(link: &Link, facts: &Facts) -> Self;
    /// Interfaces of this type that are no kernel links.
    fn beyond_links(_facts: &Facts) -> Vec<Interface> {
        vec![]
    }
    /// What the kernel would show of a link that NetworkManager made from this profile: the other way round from `from_facts`.
    /// `index` tells the index of another link. The fake node lives by it.
    fn to_link(_profile: &Profile, _link: &mut Link, _index: &dyn Fn(&str) -> Option<u32>) {}
    /// Faults in what was written (`merged` is it laid over what is).
    fn validate(&self, _cx: &Context<'_>) -> Result<(), Invalid> {
        Ok(())
    }
    /// Fills in what the wish leaves out but cannot be understood without, or NetworkManager must be told; faults of wish and
    /// what is there together.
    fn complete(&mut self, _current: Option<&Self>) -> Result<(), Invalid> {
        Ok(())
    }
    /// The type's own rules for IP; what it always has is added to the wish. Paths start below `ipv4` or `ipv6`.
    fn complete_ip(_ipv6: bool, ip: &mut Ip, _current: Option<&Ip>) -> Result<(), Invalid> {
        // `ipv6_add_addr` in the kernel; IPv4 has no such rule
        match ip.address.iter().flatten().position(|a| a.ip == Ipv6Addr::LOCALHOST) {
            Some(i) => Err(Invalid::new(
                format!("address[{i}].ip"),
                "the kernel gives ::1 only to a loopback interface or a VRF",
            )),
            None => Ok(()),
        }
    }
    /// The address that it has whatever is asked.
    fn own_address(_ipv6: bool) -> Option<Addr> {
        None
    }
    /// Why a wish for its MAC address is left out; empty where that is not worth a warning.
    fn drops_mac(&self) -> Option<&'static str> {
        None
    }
    /// Names of its ports; None where the document does not say.
    fn ports(&self) -> Option<Vec<String>> {
        None
    }
    /// Why it cannot take a port of this type.
    fn refuses_port(&self, _type_name: &str) -> Option<String> {
        None
    }
    /// Its ports keep the MAC address that they are given.
    const PORTS_KEEP_MAC: bool = true;
    /// Replaces the names of its ports, keeping what is known of each.
    fn set_ports(&mut self, _names: &[String]) {}
    /// The links it stands on, which must exist before it and take it along when they go.
    fn parents(&self) -> Vec<String> {
        vec![]
    }
    /// What the kernel gives to one interface only and this one takes; `current` has what the wish leaves out, `below` are the links
    /// that it will stand on.
    fn claims(&self, _current: Option<&Self>, _below: &[String]) -> Vec<Claim> {
        vec![]
    }
    /// What its ports receive goes to it alone (`netdev_rx_handler_register` in the kernel).
    const TAKES_FRAMES: bool = false;
    /// The routing table that it stands for (a VRF).
    fn route_table(&self) -> Option<u32> {
        None
    }
    /// Where its ports stand in the document.
    const PORTS_PATH: &'static str = "bridge.port";
    /// It cannot be without a port: where none is given it gets one of its own name.
    const NEEDS_PORT: bool = false;
    /// It lives only as a port, and may carry IP addresses as one (an interface of Open vSwitch).
    const NEEDS_CONTROLLER: bool = false;
    /// Takes out ports that are not listed, even those that others put there.
    fn wants_no_extra_ports(&self) -> bool {
        false
    }
    /// Its ports that are there but do not work, and why. It is called `name`.
    fn port_faults(&self, _name: &str, _facts: &Facts) -> Vec<(String, String)> {
        vec![]
    }
    /// Its list says more of this port than that it is one.
    fn tells_of_port(&self, _port: &str) -> bool {
        false
    }
    /// Leaves this port alone though it is not listed.
    fn keeps_extra(&self, _port: &Interface) -> bool {
        false
    }
    /// One end of a cable between two bridges.
    fn is_patch(&self) -> bool {
        false
    }
    /// The interface that the one called `name` makes of a listed port that exists nowhere.
    fn makes_port(&self, _name: &str, _port: &str) -> Option<Interface> {
        None
    }
    /// The other end that is made with it, as seen from the end called `name`.
    fn other_end(&self, _name: &str) -> Option<Interface> {
        None
    }
    /// Calls `f` on every name of another interface in its sections, so that alt-names and profile names can be replaced.
    fn rename(&mut self, _f: &mut dyn FnMut(&mut String)) {}
    /// Profiles of NetworkManager's own that stand between it and its ports, each with the ports behind it; None where ports hang on it directly.
    fn companions(&self) -> Option<Vec<Companion>> {
        None
    }
    /// The interface that comes and goes with it.
    fn peer(&self) -> Option<&str> {
        None
    }
    /// Lays the written section over the current one where a plain overlay is wrong.
    fn settle(_merged: &mut Map<String, Value>, _desired: &Map<String, Value>, _current: &Map<String, Value>) {}
    /// Writes its settings. `asked` is what to write: the document's wish, or the merged whole for a new profile.
    fn to_profile(&self, profile: &mut Profile);
    /// Notes in the profile what a later document needs to know of this one and the node does not show.
    fn remember(&self, _profile: &mut Profile) {}
    /// Writes what the controller wants of one port into the port's profile.
    fn port_to_profile(&self, _port: &str, _profile: &mut Profile) {}
    /// What the kernel would show of a port with this profile: the other way round from `port_to_profile`.
    fn port_to_link(_profile: &Profile, _link: &mut Link) {}
    /// `IFLA_INFO_KIND` of a link made from a profile of this type, where it is not `connection.type`.
    const LINK_KIND: &'static str = Self::NM_TYPE;
    /// The same where it depends on the profile.
    fn link_kind(_profile: &Profile) -> &'static str {
        Self::LINK_KIND
    }
    /// Whether there is a kernel link of an active profile.
    fn makes_link(_profile: &Profile) -> bool {
        true
    }
    /// What NetworkManager takes for granted where a profile leaves this key of its settings out (nm-settings-nmcli(5)),
    /// if it is not nothing (0, false, empty).
    fn nm_default(_setting: &str, _key: &str) -> Option<profile::Value> {
        None
    }
    /// The setting that holds what the controller wants of a port; it goes when the port leaves.
    const PORT_SETTING: &'static str = "";
    /// Settings of its profile of which NetworkManager takes no change by Reapply.
    const FIXED_SETTINGS: &'static [&'static str] = &[];
    /// Brings two readings to one form before they are compared: sorts, expands, drops what is only for reading.
    fn normalise(_tree: &mut Map<String, Value>) {}
    /// A difference at `path` that the kernel makes by rounding or by not telling. `current` is the whole reading.
    fn close_enough(_path: &str, _want: &Value, _got: &Value, _current: &Map<String, Value>) -> bool {
        false
    }
    /// The change cannot be made on a live link.
    fn must_recreate(&self, _current: &Self) -> bool {
        false
    }
    /// Virtual functions that the wish makes, by number; each brings an interface, which may take minutes.
    fn coming_vfs(&self, _current: &Self) -> Range<u32> {
        0..0
    }
    /// It may take the MAC address of another interface (`copy-mac-from`).
    const COPIES_MAC: bool = false;
    /// NetworkManager brings also a link that it has not made to what must be said when a link is made.
    const TAKES_ANY_LINK: bool = false;
    /// Something in the wish that this node cannot do and that is left out, by name.
    fn skip_unsupported(&mut self, _facts: &Facts) -> Option<String> {
        None
    }
    /// What this node cannot do and that must be refused: a kernel module, a plug-in, a newer NetworkManager (`Facts::needs_nm`).
    fn refuse_unsupported(&self, _facts: &Facts) -> Result<(), Invalid> {
        Ok(())
    }
}

/// A profile between a controller and its ports.
#[derive(Debug, Clone, PartialEq)]
pub struct Companion {
    /// What it is to be.
    pub interface: Interface,
    /// Kernel names of the ports behind it.
    pub ports: Vec<String>,
}

/// Something that the kernel gives to one interface only, or to several of one sort.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Where the wish says so, below the interface: `vlan.id`.
    pub path: &'static str,
    /// In the words of an error: `VLAN 5 of eth1`.
    pub what: String,
    /// Those with the same word here have it together.
    pub with: Option<&'static str>,
}

impl Claim {
    /// What a link receives: a bridge, a bond or what stands on the link sees it first (`netdev_rx_handler_register` in the kernel).
    pub fn frames(path: &'static str, of: &str, with: Option<&'static str>) -> Self {
        let what = format!("what {of} receives");
        Claim { path, what, with }
    }
}

/// What validation may look at.
pub struct Context<'a> {
    /// The interface's name.
    pub name: &'a str,
    /// It does not exist yet, not even as a profile, and is wanted.
    pub new: bool,
    /// The whole entry.
    pub wish: &'a Interface,
    /// The node.
    pub facts: &'a Facts,
}

macro_rules! kinds {
    ($($variant:ident => $ty:ty),* $(,)?) => {
        /// The type of an interface with its own sections.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(clippy::large_enum_variant)] // a document has hundreds of these, not millions
        pub enum AnyKind {
            $(#[allow(missing_docs)] $variant($ty),)*
            /// A type that is only shown, or none given yet.
            Other(other::Other),
        }

        macro_rules! each {
            ($self:expr, $k:ident => $e:expr, $o:ident => $other:expr) => {
                match $self {
                    $(AnyKind::$variant($k) => $e,)*
                    AnyKind::Other($o) => $other,
                }
            };
        }

        impl AnyKind {
            /// The sections of a type; None for one that cannot be configured.
            fn sections_of(type_name: &str) -> Option<&'static [&'static str]> {
                $(if type_name == <$ty>::TYPE { return Some(<$ty>::SECTIONS); })*
                None
            }

            /// The sections of its type.
            pub fn sections(&self) -> &'static [&'static str] {
                AnyKind::sections_of(self.type_name()).unwrap_or_default()
            }

            fn parse(type_name: &str, sections: Map<String, Value>) -> Result<Self, Invalid> {
                $(if type_name == <$ty>::TYPE {
                    return from_value(Value::Object(sections)).map(AnyKind::$variant);
                })*
                Ok(AnyKind::Other(other::Other { type_name: type_name.to_owned(), keys: sections }))
            }

            /// Interfaces that are no kernel links.
            pub fn beyond_links(facts: &Facts) -> Vec<Interface> {
                let mut all = vec![];
                $(all.extend(<$ty>::beyond_links(facts));)*
                all
            }

            /// What the kernel would show of a link of this `connection.type`.
            pub fn to_link(nm_type: &str, profile: &Profile, link: &mut Link, index: &dyn Fn(&str) -> Option<u32>) {
                $(if nm_type == <$ty>::NM_TYPE { <$ty>::to_link(profile, link, index); })*
            }

            /// What NetworkManager takes for granted, where it is not nothing.
            pub fn nm_default(setting: &str, key: &str) -> Option<profile::Value> {
                $(if let Some(default) = <$ty>::nm_default(setting, key) { return Some(default); })*
                None
            }

            /// What the kernel would show of a port of this `connection.slave-type`.
            pub fn port_to_link(port_type: &str, profile: &Profile, link: &mut Link) {
                $(if !port_type.is_empty() && port_type == <$ty>::PORT_TYPE { <$ty>::port_to_link(profile, link); })*
            }

            /// `IFLA_INFO_KIND` of a link made from a profile of this `connection.type`.
            pub fn link_kind<'a>(nm_type: &'a str, profile: &Profile) -> &'a str {
                $(if nm_type == <$ty>::NM_TYPE { return <$ty>::link_kind(profile); })*
                nm_type
            }

            /// What a profile alone tells of an interface of this type.
            pub fn from_profile(&self, profile: &Profile) -> Self {
                match self {
                    $(AnyKind::$variant(_) => AnyKind::$variant(<$ty>::from_profile(profile)),)*
                    AnyKind::Other(o) => AnyKind::Other(o.clone()),
                }
            }

            /// Paths of secrets below an interface, of all types.
            pub fn all_secrets() -> impl Iterator<Item = &'static str> {
                [$(<$ty>::SECRETS),*].into_iter().flatten().copied()
            }

            /// It has an Ethernet address that can be set.
            pub fn is_ethernet(&self) -> bool {
                each!(self, k => k.is_ethernet(), _o => true)
            }

            /// Links below it that may not carry IP addresses.
            pub fn strips_ip(&self) -> Vec<String> {
                each!(self, k => k.strips_ip(), _o => vec![])
            }

            /// Those links must have one MAC address.
            pub fn shares_mac(&self) -> bool {
                each!(self, k => k.shares_mac(), _o => false)
            }

            /// Whether there is a kernel link of a profile of this `connection.type`.
            pub fn makes_link(nm_type: &str, profile: &Profile) -> bool {
                $(if nm_type == <$ty>::NM_TYPE { return <$ty>::makes_link(profile); })*
                true
            }

            /// `type` of a profile with this `connection.type`.
            pub fn type_of_nm(nm_type: &str) -> Option<&'static str> {
                $(if nm_type == <$ty>::NM_TYPE { return Some(<$ty>::TYPE); })*
                None
            }

            /// What `connection.id` has behind the name, by `connection.type`.
            pub fn id_suffix(nm_type: &str) -> &'static str {
                $(if nm_type == <$ty>::NM_TYPE { return <$ty>::ID_SUFFIX; })*
                ""
            }

            /// Nobody writes it in a document.
            pub fn is_internal(&self) -> bool {
                match self { $(AnyKind::$variant(_) => <$ty>::INTERNAL,)* AnyKind::Other(_) => false }
            }

            /// NetworkManager has it up by itself, whatever is asked.
            pub fn stays_up(&self) -> bool {
                match self { $(AnyKind::$variant(_) => <$ty>::STAYS_UP,)* AnyKind::Other(_) => false }
            }

            /// Keys of an interface that mean nothing here.
            pub fn ignored(&self) -> &'static [&'static str] {
                match self { $(AnyKind::$variant(_) => <$ty>::IGNORED,)* AnyKind::Other(_) => &[] }
            }

            /// It cannot be without a port.
            pub fn needs_port(&self) -> bool {
                match self { $(AnyKind::$variant(_) => <$ty>::NEEDS_PORT,)* AnyKind::Other(_) => false }
            }

            /// Where its name is unique.
            pub fn space(&self) -> Space {
                match self { $(AnyKind::$variant(_) => <$ty>::SPACE,)* AnyKind::Other(_) => Space::Kernel }
            }

            /// The setting that holds MTU and promiscuity.
            pub fn link_setting(&self) -> Option<&'static str> {
                let setting = match self { $(AnyKind::$variant(_) => <$ty>::LINK_SETTING,)* AnyKind::Other(_) => "" };
                (!setting.is_empty()).then_some(setting)
            }

            /// Paths of secrets below the interface.
            pub fn secrets(&self) -> &'static [&'static str] {
                match self { $(AnyKind::$variant(_) => <$ty>::SECRETS,)* AnyKind::Other(_) => &[] }
            }

            /// The setting of a port's profile that its controller writes.
            pub fn port_setting(&self) -> &'static str {
                match self { $(AnyKind::$variant(_) => <$ty>::PORT_SETTING,)* AnyKind::Other(_) => "" }
            }

            /// Settings that only ports have, of all types.
            pub fn port_settings() -> impl Iterator<Item = &'static str> {
                [$(<$ty>::PORT_SETTING),*].into_iter().filter(|s| !s.is_empty())
            }

            /// Settings of which NetworkManager takes no change by Reapply, of all types.
            pub fn fixed_settings() -> impl Iterator<Item = &'static str> {
                let mut all: Vec<&'static str> = vec![];
                $(all.extend(<$ty>::FIXED_SETTINGS);)*
                all.into_iter()
            }

            /// What the kernel and NetworkManager say of a link.
            pub fn from_facts(type_name: &str, link: &Link, facts: &Facts) -> Self {
                $(if type_name == <$ty>::TYPE { return AnyKind::$variant(<$ty>::from_facts(link, facts)); })*
                AnyKind::Other(other::Other { type_name: type_name.to_owned(), keys: Map::new() })
            }

            /// Lays written sections over current ones where a plain overlay is wrong.
            pub fn settle(&self, merged: &mut Map<String, Value>, desired: &Map<String, Value>, current: &Map<String, Value>) {
                match self { $(AnyKind::$variant(_) => <$ty>::settle(merged, desired, current),)* AnyKind::Other(_) => {} }
            }

            /// Brings a tree to the form in which two readings are compared.
            pub fn normalise(&self, tree: &mut Map<String, Value>) {
                match self { $(AnyKind::$variant(_) => <$ty>::normalise(tree),)* AnyKind::Other(_) => {} }
            }

            /// The change cannot be made on a live link.
            pub fn must_recreate(&self, current: &AnyKind) -> bool {
                match (self, current) {
                    $((AnyKind::$variant(a), AnyKind::$variant(b)) => a.must_recreate(b),)*
                    _ => false,
                }
            }

            /// What the kernel gives to one interface only and this one, standing on `below`, takes.
            pub fn claims(&self, current: Option<&AnyKind>, below: &[String]) -> Vec<Claim> {
                match (self, current) {
                    $((AnyKind::$variant(a), Some(AnyKind::$variant(b))) => a.claims(Some(b), below),)*
                    _ => each!(self, k => k.claims(None, below), _o => vec![]),
                }
            }
            /// What its ports receive goes to it alone.
            pub fn takes_frames(&self) -> bool {
                match self { $(AnyKind::$variant(_) => <$ty>::TAKES_FRAMES,)* AnyKind::Other(_) => false }
            }

            /// Virtual functions that the wish makes.
            pub fn coming_vfs(&self, current: &AnyKind) -> Range<u32> {
                match (self, current) {
                    $((AnyKind::$variant(a), AnyKind::$variant(b)) => a.coming_vfs(b),)*
                    _ => 0..0,
                }
            }

            /// It may take the MAC address of another interface.
            pub fn copies_mac(&self) -> bool {
                match self { $(AnyKind::$variant(_) => <$ty>::COPIES_MAC,)* AnyKind::Other(_) => false }
            }

            /// A link that NetworkManager has not made can become what the wish says.
            pub fn takes_any_link(&self) -> bool {
                match self { $(AnyKind::$variant(_) => <$ty>::TAKES_ANY_LINK,)* AnyKind::Other(_) => false }
            }

            /// `type` in the document.
            pub fn type_name(&self) -> &str {
                match self { $(AnyKind::$variant(_) => <$ty>::TYPE,)* AnyKind::Other(o) => &o.type_name }
            }
            /// `connection.type`; empty where it cannot be configured.
            pub fn nm_type(&self) -> &'static str {
                each!(self, k => k.nm_type(), _o => "")
            }
            /// Made by software.
            pub fn is_virtual(&self) -> bool {
                each!(self, k => k.is_virtual(), _o => false)
            }
            /// May have ports.
            pub fn is_controller(&self) -> bool {
                match self { $(AnyKind::$variant(_) => <$ty>::CONTROLLER,)* AnyKind::Other(_) => false }
            }
            /// `connection.slave-type` of its ports.
            pub fn port_type(&self) -> &'static str {
                match self { $(AnyKind::$variant(_) => <$ty>::PORT_TYPE,)* AnyKind::Other(_) => "" }
            }
            /// Its ports may carry IP addresses.
            pub fn ports_carry_ip(&self) -> bool {
                match self { $(AnyKind::$variant(_) => <$ty>::PORTS_CARRY_IP,)* AnyKind::Other(_) => false }
            }
            /// Faults in what was written.
            pub fn validate(&self, cx: &Context<'_>) -> Result<(), Invalid> {
                each!(self, k => k.validate(cx), _o => Ok(()))
            }
            /// Fills in from what is there what the wish cannot be understood without; faults of the two together.
            pub fn complete(&mut self, current: Option<&AnyKind>) -> Result<(), Invalid> {
                match (self, current) {
                    $((AnyKind::$variant(k), Some(AnyKind::$variant(now))) => k.complete(Some(now)),
                    (AnyKind::$variant(k), _) => k.complete(None),)*
                    (AnyKind::Other(_), _) => Ok(()),
                }
            }
            /// The type's own rules for IP.
            pub fn complete_ip(&self, ipv6: bool, ip: &mut Ip, current: Option<&Ip>) -> Result<(), Invalid> {
                match self {
                    $(AnyKind::$variant(_) => <$ty>::complete_ip(ipv6, ip, current),)*
                    AnyKind::Other(_) => Ok(()),
                }
            }
            /// The address that it has whatever is asked.
            pub fn own_address(&self, ipv6: bool) -> Option<Addr> {
                match self { $(AnyKind::$variant(_) => <$ty>::own_address(ipv6),)* AnyKind::Other(_) => None }
            }
            /// Why a wish for its MAC address is left out.
            pub fn drops_mac(&self) -> Option<&'static str> {
                each!(self, k => k.drops_mac(), _o => None)
            }
            /// Why it cannot take a port of this type.
            pub fn refuses_port(&self, type_name: &str) -> Option<String> {
                each!(self, k => k.refuses_port(type_name), _o => None)
            }
            /// Its ports keep the MAC address that they are given.
            pub fn ports_keep_mac(&self) -> bool {
                match self { $(AnyKind::$variant(_) => <$ty>::PORTS_KEEP_MAC,)* AnyKind::Other(_) => true }
            }
            /// A difference that the kernel makes by rounding or by not telling.
            pub fn close_enough(&self, path: &str, want: &Value, got: &Value, current: &Map<String, Value>) -> bool {
                match self {
                    $(AnyKind::$variant(_) => <$ty>::close_enough(path, want, got, current),)*
                    AnyKind::Other(_) => false,
                }
            }
            /// Names of its ports; None where the document does not say.
            pub fn ports(&self) -> Option<Vec<String>> {
                each!(self, k => k.ports(), _o => None)
            }
            /// Replaces the names of its ports.
            pub fn set_ports(&mut self, names: &[String]) {
                each!(self, k => k.set_ports(names), _o => ())
            }
            /// The links it stands on.
            pub fn parents(&self) -> Vec<String> {
                each!(self, k => k.parents(), _o => vec![])
            }
            /// The routing table that it stands for.
            pub fn route_table(&self) -> Option<u32> {
                each!(self, k => k.route_table(), _o => None)
            }
            /// Where its ports stand in the document.
            pub fn ports_path(&self) -> &'static str {
                match self { $(AnyKind::$variant(_) => <$ty>::PORTS_PATH,)* AnyKind::Other(_) => "port" }
            }
            /// It lives only as a port.
            pub fn needs_controller(&self) -> bool {
                match self { $(AnyKind::$variant(_) => <$ty>::NEEDS_CONTROLLER,)* AnyKind::Other(_) => false }
            }
            /// Takes out ports that are not listed.
            pub fn wants_no_extra_ports(&self) -> bool {
                each!(self, k => k.wants_no_extra_ports(), _o => false)
            }
            /// Its ports that are there but do not work, and why.
            pub fn port_faults(&self, name: &str, facts: &Facts) -> Vec<(String, String)> {
                each!(self, k => k.port_faults(name, facts), _o => vec![])
            }
            /// Its list says more of this port than that it is one.
            pub fn tells_of_port(&self, port: &str) -> bool {
                each!(self, k => k.tells_of_port(port), _o => false)
            }
            /// Leaves this port alone though it is not listed.
            pub fn keeps_extra(&self, port: &Interface) -> bool {
                each!(self, k => k.keeps_extra(port), _o => false)
            }
            /// One end of a cable between two bridges.
            pub fn is_patch(&self) -> bool {
                each!(self, k => k.is_patch(), _o => false)
            }
            /// The interface that it makes of a listed port that exists nowhere.
            pub fn makes_port(&self, name: &str, port: &str) -> Option<Interface> {
                each!(self, k => k.makes_port(name, port), _o => None)
            }
            /// The other end that is made with it.
            pub fn other_end(&self, name: &str) -> Option<Interface> {
                each!(self, k => k.other_end(name), _o => None)
            }
            /// Calls `f` on every name of another interface.
            pub fn rename(&mut self, f: &mut dyn FnMut(&mut String)) {
                each!(self, k => k.rename(f), _o => ())
            }
            /// Profiles between it and its ports.
            pub fn companions(&self) -> Option<Vec<Companion>> {
                each!(self, k => k.companions(), _o => None)
            }
            /// Refuses what this node cannot do.
            pub fn refuse_unsupported(&self, facts: &Facts) -> Result<(), Invalid> {
                each!(self, k => k.refuse_unsupported(facts), _o => Ok(()))
            }
            /// The interface that comes and goes with it.
            pub fn peer(&self) -> Option<&str> {
                each!(self, k => k.peer(), _o => None)
            }
            /// Writes its settings.
            pub fn to_profile(&self, profile: &mut Profile) {
                each!(self, k => k.to_profile(profile), _o => ())
            }
            /// Notes in the profile what a later document needs to know of this one.
            pub fn remember(&self, profile: &mut Profile) {
                each!(self, k => k.remember(profile), _o => ())
            }
            /// Writes what the controller wants of one port.
            pub fn port_to_profile(&self, port: &str, profile: &mut Profile) {
                each!(self, k => k.port_to_profile(port, profile), _o => ())
            }
            /// Leaves out what this node cannot do; says what.
            pub fn skip_unsupported(&mut self, facts: &Facts) -> Option<String> {
                each!(self, k => k.skip_unsupported(facts), _o => None)
            }
            fn tree(&self) -> Value {
                each!(self, k => to_value(k), o => Value::Object(o.keys.clone()))
            }
        }
    };
}

kinds! {
    Ethernet => ethernet::Ethernet,
    Veth => veth::Veth,
    LinuxBridge => linux_bridge::LinuxBridge,
    Loopback => loopback::Loopback,
    Dummy => dummy::Dummy,
    Vlan => vlan::Vlan,
    Hsr => hsr::Hsr,
    Infiniband => infiniband::Infiniband,
    IpTunnel => ip_tunnel::IpTunnel,
    Ipsec => ipsec::Ipsec,
    Macsec => macsec::Macsec,
    Wireguard => wireguard::Wireguard,
    Bond => bond::Bond,
    Vrf => vrf::Vrf,
    Vxlan => vxlan::Vxlan,
    MacVlan => macvlan::MacVlan,
    MacVtap => macvlan::MacVtap,
    IpVlan => ipvlan::IpVlan,
    Xfrm => xfrm::Xfrm,
    Tun => tun::Tun,
    OvsBridge => ovs_bridge::OvsBridge,
    OvsPort => ovs_port::OvsPort,
    OvsInterface => ovs_interface::OvsInterface,
}

/// An interface: what all have, IP, and the sections of its type.
#[derive(Debug, Clone, PartialEq)]
pub struct Interface {
    /// Name, state, MAC, MTU, controller, …
    pub base: Base,
    /// `ipv4`.
    pub ipv4: Option<Ip>,
    /// `ipv6`.
    pub ipv6: Option<Ip>,
    /// `lldp`, `mptcp`, `ethtool`, …
    pub parts: Parts,
    /// `type` and its sections.
    pub kind: AnyKind,
}

impl Interface {
    /// An interface of which only name and type are known.
    pub fn bare(name: &str, type_name: &str) -> Self {
        let base = Base {
            name: name.to_owned(),
            ..Base::default()
        };
        let kind = AnyKind::parse(type_name, Map::new()).unwrap_or(AnyKind::Other(other::Other::default()));
        Interface {
            base,
            ipv4: None,
            ipv6: None,
            parts: Parts::default(),
            kind,
        }
    }

    /// Parses one entry. Paths in the error start below the interface.
    pub fn from_tree(tree: Value) -> Result<Self, Invalid> {
        let Value::Object(mut map) = tree else {
            return Err(Invalid::new("", "an interface must be a map"));
        };
        let type_name = match map.remove("type") {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(s)) => s,
            Some(other) => return Err(Invalid::new("type", format!("{other} is not a string"))),
        };
        // to most users one end of a pair is an ethernet
        let type_name = match map.contains_key("veth") && type_name == "ethernet" {
            true => "veth".to_owned(),
            false => type_name,
        };
        let [mut base, mut parts, mut sections] = <[Map<String, Value>; 3]>::default();
        for (key, value) in map {
            let owner = match key.as_str() {
                k if Base::KEYS.contains(&k) => &mut base,
                k if Parts::KEYS.contains(&k) => &mut parts,
                _ => &mut sections,
            };
            owner.insert(key, value);
        }
        let mut ip = |key: &str| -> Result<Option<Ip>, Invalid> {
            match sections.remove(key) {
                None | Some(Value::Null) => Ok(None),
                Some(v) => {
                    let ip: Ip = from_value(v).map_err(|e| e.under(key))?;
                    ip.validate(key == "ipv6").map_err(|e| e.under(key))?;
                    Ok(Some(ip))
                }
            }
        };
        let (ipv4, ipv6) = (ip("ipv4")?, ip("ipv6")?);
        let base: Base = from_value(Value::Object(base))?;
        let parts = Parts::from_tree(parts)?;
        if let Some(keys) = AnyKind::sections_of(&type_name)
            && let Some(key) = sections.keys().find(|k| !keys.contains(&k.as_str()))
        {
            return Err(Invalid::new(key, unknown_key(key, &type_name, keys)));
        }
        let kind = AnyKind::parse(&type_name, sections)?;
        base.validate(kind.space())?;
        Ok(Interface {
            base,
            ipv4,
            ipv6,
            parts,
            kind,
        })
    }

    /// The entry as JSON.
    pub fn tree(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => map,
            _ => unreachable!("an interface is printed as a map"),
        }
    }

    /// The same entry read as another type: for `ethernet` written where a veth stands, or no type at all.
    pub fn retyped(&self, type_name: &str) -> Result<Self, Invalid> {
        let mut tree = self.tree();
        tree.insert("type".into(), type_name.into());
        Interface::from_tree(Value::Object(tree))
    }

    /// The kernel's name, or what the user called it before it was resolved.
    pub fn name(&self) -> &str {
        &self.base.name
    }

    /// Which interface it is.
    pub fn id(&self) -> Id {
        Id::in_space(self.base.name.clone(), self.kind.space())
    }

    /// Drops what is only read: limits of the driver, addresses that somebody gave for a time, neighbours that were heard.
    pub fn drop_read_only(&mut self) {
        self.base.min_mtu = None;
        self.base.max_mtu = None;
        for ip in [&mut self.ipv4, &mut self.ipv6].into_iter().flatten() {
            ip.drop_dynamic();
        }
        if let Some(lldp) = &mut self.parts.lldp {
            lldp.neighbors = None;
        }
    }

    /// Paths at which it may hold secrets.
    pub fn secrets(&self) -> Vec<String> {
        let mut paths = self.parts.secrets();
        paths.extend(self.kind.secrets().iter().map(|s| (*s).to_owned()));
        paths
    }

    /// Takes out a key that means nothing here. True where it asked for something.
    pub fn drop_key(&mut self, key: &str) -> bool {
        match key {
            "mtu" => self.base.mtu.take().is_some(),
            "mac-address" => self.base.mac_address.take().is_some(),
            "accept-all-mac-addresses" => self.base.accept_all_mac_addresses.take() == Some(true),
            "ipv4" => self.ipv4.take().is_some_and(|ip| ip.is_enabled()),
            "ipv6" => self.ipv6.take().is_some_and(|ip| ip.is_enabled()),
            _ => false,
        }
    }

    /// Replaces secrets by a placeholder.
    pub fn hide_secrets(&mut self) {
        let paths = self.secrets();
        if paths.is_empty() {
            return;
        }
        let before = Value::Object(self.tree());
        let mut tree = before.clone();
        for path in paths {
            tree::replace(&mut tree, &path, &HIDDEN.into());
        }
        if tree != before
            && let Ok(shown) = Interface::from_tree(tree)
        {
            *self = shown;
        }
    }

    /// Puts what is stored where the placeholder of a secret stands: what the interface shows, and what its profile holds while it is down.
    pub fn restore_secrets(&mut self, current: Option<&Interface>, profile: Option<&Profile>) -> Result<(), Invalid> {
        let paths = self.secrets();
        if paths.is_empty() {
            return Ok(());
        }
        let mut tree = Value::Object(self.tree());
        if !tree.to_string().contains(HIDDEN) {
            return Ok(());
        }
        let mut stored = profile.map_or(Value::Null, |profile| self.stored(profile));
        if let Some(current) = current {
            tree::overlay(&mut stored, &Value::Object(current.tree()));
        }
        for path in paths {
            tree::restore(&mut tree, &stored, &path, HIDDEN).map_err(|at| {
                Invalid::new(
                    at,
                    format!("{HIDDEN} stands for the secret that is stored, but none is"),
                )
            })?;
        }
        *self = Interface::from_tree(tree)?;
        Ok(())
    }

    /// What a profile alone tells of the parts and sections.
    fn stored(&self, profile: &Profile) -> Value {
        let parts = Parts::from_profile(profile).tree().into_iter();
        let mut tree: Value = parts.map(|(key, part)| (key.to_owned(), part)).collect();
        tree::overlay(&mut tree, &self.kind.from_profile(profile).tree());
        tree
    }

    /// The wish for a link that another entry makes as its `end`, where it does not say so itself.
    pub fn paired(&self, end: &Interface) -> Option<Interface> {
        let open = matches!(self.kind.type_name(), "" | "unknown" | "ethernet" | "veth") && self.kind.peer().is_none();
        if !open {
            return None;
        }
        let mut tree = Value::Object(self.tree());
        tree::overlay(&mut tree, &end.kind.tree());
        tree["type"] = end.kind.type_name().into();
        Interface::from_tree(tree).ok()
    }

    /// Wanted up (the default).
    pub fn is_up(&self) -> bool {
        self.base.state.unwrap_or_default() == State::Up
    }

    /// Wanted gone.
    pub fn is_absent(&self) -> bool {
        self.base.state == Some(State::Absent)
    }

    /// Hands off.
    pub fn is_ignored(&self) -> bool {
        self.base.state == Some(State::Ignore)
    }

    /// What IP family it has: `ipv6` or `ipv4`.
    pub fn ip(&self, ipv6: bool) -> Option<&Ip> {
        if ipv6 { self.ipv6.as_ref() } else { self.ipv4.as_ref() }
    }
}

impl Serialize for Interface {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let Interface {
            base,
            ipv4,
            ipv6,
            parts,
            kind,
        } = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", &base.name)?;
        if !kind.type_name().is_empty() {
            map.serialize_entry("type", kind.type_name())?;
        }
        let base = to_value(base);
        for key in Base::KEYS.iter().skip(1) {
            if let Some(value) = base.get(*key) {
                map.serialize_entry(key, value)?;
            }
        }
        for (key, ip) in [("ipv4", ipv4), ("ipv6", ipv6)] {
            if let Some(ip) = ip {
                map.serialize_entry(key, ip)?;
            }
        }
        for (key, value) in &parts.tree() {
            map.serialize_entry(key, value)?;
        }
        if let Value::Object(sections) = kind.tree() {
            for (key, value) in &sections {
                map.serialize_entry(key, value)?;
            }
        }
        map.end()
    }
}

fn unknown_key(key: &str, type_name: &str, sections: &[&str]) -> String {
    let known: Vec<&str> = sections
        .iter()
        .chain(Base::KEYS)
        .chain(&["ipv4", "ipv6"])
        .chain(Parts::KEYS)
        .copied()
        .collect();
    let near = known.iter().find(|k| {
        k.trim_end_matches('s') == key.trim_end_matches('s') || k.replace('-', "") == key.replace(['-', '_'], "")
    });
    match near {
        Some(near) => format!("unknown key '{key}'; did you mean '{near}'?"),
        None => format!("unknown key '{key}' in an interface of type {type_name}"),
    }
}

/// A secret that is really known: not the placeholder, as in a state that was printed.
pub(crate) fn told(secret: &Option<Secret>) -> Option<&str> {
    secret.as_ref().map(|s| s.0.as_str()).filter(|s| *s != HIDDEN)
}

/// Something else is asked for than there is.
pub(crate) fn differs<T: PartialEq>(wish: &Option<T>, now: &Option<T>) -> bool {
    wish.is_some() && wish != now
}

/// Reads a typed value; the error's path is where in the value it went wrong.
pub(crate) fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, Invalid> {
    // to keep track of where it is costs as much as reading it: only a fault needs that
    if let Ok(read) = T::deserialize(&value) {
        return Ok(read);
    }
    serde_path_to_error::deserialize(value).map_err(|e| {
        let path = match e.path().to_string() {
            p if p == "." => String::new(),
            p => p,
        };
        Invalid::new(path, e.into_inner().to_string())
    })
}

/// Prints a typed value; our types never fail to.
pub(crate) fn to_value<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// Brings `ipv4` or `ipv6` to the form in which wish and reading are compared.
pub(crate) fn normalise_ip(tree: &mut Map<String, Value>, ipv6: bool) {
    Ip::normalise(tree, ipv6);
}
