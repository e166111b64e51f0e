//! Raw observations as the kernel and NetworkManager gave them: input of `state::from_facts`, output of the edges.
//!
//! Pure data. Names are the kernel's; numbers are the kernel's units.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use netlink_packet_route::link::{InfoBridgePort, InfoData, InfoPortData};
use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, Invalid};
use crate::profile::{Dict, Profile, Value};
use crate::scalar::{Id, Space};

mod index;

pub use index::Index;

/// One reading of everything about this node.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Every link in the namespace, by kernel order.
    pub links: Vec<Link>,
    /// Every address.
    pub addresses: Vec<Address>,
    /// Every route of all tables but `local`, multipath flattened.
    pub routes: Vec<Route>,
    /// Every routing rule but the three that the kernel makes (priorities 0, 32766, 32767).
    pub rules: Vec<Rule>,
    /// NetworkManager's devices.
    pub devices: Vec<Device>,
    /// Devices of type TUN beside one of Open vSwitch of the same name: without its kernel module it makes internal interfaces of taps.
    pub taps: Vec<Device>,
    /// NetworkManager's saved and in-memory profiles.
    pub profiles: Vec<SavedProfile>,
    /// Active connections of VPNs, which have no device.
    pub vpns: Vec<Active>,
    /// NetworkManager's DNS.
    pub dns: Dns,
    /// Files of ours outside NetworkManager's profiles (dispatcher scripts, `.link` files), by path.
    pub files: BTreeMap<String, String>,
    /// Where NetworkManager's dispatcher looks for scripts.
    pub dispatch_dir: String,
    /// Running and static host name.
    pub hostname: Hostname,
    /// `net.mptcp.enabled`.
    pub mptcp_enabled: bool,
    /// Addresses that multipath TCP uses (`ip mptcp endpoint`).
    pub mptcp: Vec<MptcpEndpoint>,
    /// NetworkManager's version, `1.42.4`; empty where it does not run.
    pub nm_version: String,
    /// Whether this kernel can filter VLANs on a bridge; None where it could not be told.
    pub bridge_vlan_filtering: Option<bool>,
    /// NetworkManager's `Capabilities` (NM_CAPABILITY_*): 1 teams, 2 Open vSwitch.
    pub nm_capabilities: Vec<u32>,
    /// The database of Open vSwitch; None where it does not answer.
    pub ovs: Option<Ovs>,
    /// Where things are in these lists; see `Facts::indexed`.
    pub index: Index,
}

impl Facts {
    /// Whether NetworkManager is at least of this version (`1.52`); true where none runs.
    pub fn nm_at_least(&self, version: &str) -> bool {
        let numbers = |text: &str| -> Vec<u32> { text.split(['.', '-']).map_while(|p| p.parse().ok()).collect() };
        self.nm_version.is_empty() || numbers(&self.nm_version) >= numbers(version)
    }

    /// An error for what only a newer NetworkManager can do.
    pub fn needs_nm(&self, version: &str, path: &str, what: &str) -> Result<(), Invalid> {
        match self.nm_at_least(version) {
            true => Ok(()),
            false => Err(Invalid::of(
                ErrorKind::DependencyError,
                path,
                format!(
                    "{what} needs NetworkManager {version}; this node has {}",
                    self.nm_version
                ),
            )),
        }
    }

    /// NetworkManager's device for this kernel name.
    pub fn device(&self, name: &str) -> Option<&Device> {
        self.device_of(&Id::kernel(name))
    }

    /// The active connection of an interface: its device's, or that of a VPN's profile.
    pub fn active(&self, id: &Id) -> Option<&Active> {
        match id.space {
            Space::Vpn => {
                let profile = |a: &&Active| self.profile(&a.uuid).is_some_and(|p| p.id().as_ref() == Some(id));
                self.vpns.iter().find(profile)
            }
            _ => self.device_of(id)?.active.as_ref(),
        }
    }

    /// NetworkManager holds it up, or is about to: its device is beyond `disconnected`, its VPN is there.
    pub fn is_on(&self, id: &Id) -> bool {
        match id.space {
            Space::Vpn => self.active(id).is_some(),
            _ => self.device_of(id).is_some_and(|d| d.state > 30),
        }
    }

    /// The active connection of an interface while it comes up or is up, unless it only mirrors what somebody else configured.
    pub fn running(&self, id: &Id) -> Option<&Active> {
        let on = match id.space {
            // NM_ACTIVE_CONNECTION_STATE_*: 1 activating, 2 activated
            Space::Vpn => self.active(id).is_some_and(|a| matches!(a.state, 1 | 2)),
            _ => self
                .device_of(id)
                .is_some_and(|d| !d.external() && (40..110).contains(&d.state)),
        };
        self.active(id).filter(|_| on)
    }

    /// Something is up, or comes up, with the profile of this uuid.
    pub fn in_force(&self, uuid: &str) -> bool {
        let devices = self.devices.iter().filter_map(|d| d.active.as_ref());
        devices
            .chain(&self.vpns)
            .any(|a| a.uuid == uuid && matches!(a.state, 1 | 2))
    }

    /// The row of Open vSwitch for an interface of this name.
    pub fn ovs_interface(&self, name: &str) -> Option<&OvsInterface> {
        self.ovs.as_ref()?.interfaces.get(name)
    }

    /// The profile that is active on this kernel link.
    pub fn active_profile(&self, name: &str) -> Option<&SavedProfile> {
        self.profile(&self.device(name)?.active.as_ref()?.uuid)
    }

    /// The first address of this subnet on the link, the one without `IFA_F_SECONDARY`.
    pub fn first_address(&self, name: &str, subnet: &IpNet) -> Option<IpAddr> {
        let index = self.link(name)?.index;
        let same = |a: &&Address| a.prefix == subnet.prefix_len() && subnet.contains(&a.ip);
        self.addresses_of(index).into_iter().find(same).map(|a| a.ip)
    }

    /// The profile that is active on this kernel link, unless it only mirrors what somebody else configured.
    pub fn own_profile(&self, name: &str) -> Option<&Profile> {
        self.device(name).filter(|d| !d.external())?;
        Some(&self.active_profile(name)?.profile)
    }
}

/// What the database of Open vSwitch says (ovs-vswitchd.conf.db(5)), joined by name; names are unique in each table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ovs {
    /// Table `Bridge`.
    pub bridges: BTreeMap<String, OvsBridge>,
    /// Table `Port`.
    pub ports: BTreeMap<String, OvsPort>,
    /// Table `Interface`.
    pub interfaces: BTreeMap<String, OvsInterface>,
    /// Of the one row of table `Open_vSwitch`.
    pub ids: OvsIds,
}

impl Ovs {
    /// Notes in ports and interfaces what holds them.
    pub fn tell_members(&mut self) {
        for (bridge, row) in &self.bridges {
            for port in &row.ports {
                if let Some(port) = self.ports.get_mut(port) {
                    port.bridge.clone_from(bridge);
                }
            }
        }
        for (port, row) in &self.ports {
            for interface in &row.interfaces {
                if let Some(interface) = self.interfaces.get_mut(interface) {
                    interface.port.clone_from(port);
                    interface.bridge.clone_from(&row.bridge);
                }
            }
        }
    }
}

/// Free keys and values that every table has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OvsIds {
    /// `external_ids`: other people's.
    pub external_ids: BTreeMap<String, String>,
    /// `other_config`: read by Open vSwitch.
    pub other_config: BTreeMap<String, String>,
}

impl OvsIds {
    /// The profile that NetworkManager made the row from; None for a row that somebody else put there.
    pub fn nm_uuid(&self) -> Option<&str> {
        self.external_ids.get("NM.connection.uuid").map(String::as_str)
    }
}

/// A row of table `Bridge`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OvsBridge {
    /// Names of its ports, sorted.
    pub ports: Vec<String>,
    /// `stp_enable`.
    pub stp: bool,
    /// `rstp_enable`.
    pub rstp: bool,
    /// `mcast_snooping_enable`.
    pub mcast_snooping: bool,
    /// `fail_mode`: `standalone`, `secure`, empty.
    pub fail_mode: String,
    /// `datapath_type`: `system`, `netdev`, empty.
    pub datapath: String,
    /// Free keys and values.
    pub ids: OvsIds,
}

/// A row of table `Port`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OvsPort {
    /// The bridge that has it.
    pub bridge: String,
    /// Names of its interfaces, sorted; a bond has several.
    pub interfaces: Vec<String>,
    /// `vlan_mode`.
    pub vlan_mode: Option<String>,
    /// `tag`, 0–4095.
    pub tag: Option<u16>,
    /// `trunks`, 0–4095, sorted.
    pub trunks: Vec<u16>,
    /// `bond_mode`.
    pub bond_mode: Option<String>,
    /// `lacp`: `active`, `passive`, `off`.
    pub lacp: Option<String>,
    /// `bond_updelay`, milliseconds.
    pub updelay: u32,
    /// `bond_downdelay`, milliseconds.
    pub downdelay: u32,
    /// Free keys and values.
    pub ids: OvsIds,
}

/// A row of table `Interface`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OvsInterface {
    /// The port that has it.
    pub port: String,
    /// The bridge that has the port.
    pub bridge: String,
    /// `type`: `system` or empty for a kernel link, `internal`, `patch`, `dpdk`, a kind of tunnel.
    pub kind: String,
    /// `options`: `peer`, `dpdk-devargs`, …
    pub options: BTreeMap<String, String>,
    /// `ofport`: its number in the switch once it works; -1 where it could not be made, None as long as nobody tried.
    pub ofport: Option<i32>,
    /// `error`: why it could not be made.
    pub error: Option<String>,
    /// Free keys and values.
    pub ids: OvsIds,
}

/// A kernel link (`RTM_GETLINK`).
#[derive(Debug, Clone, Default)]
pub struct Link {
    /// `ifi_index`.
    pub index: u32,
    /// `IFLA_IFNAME`.
    pub name: String,
    /// `IFLA_PROP_LIST` / `IFLA_ALT_IFNAME`.
    pub alt_names: Vec<String>,
    /// `IFLA_INFO_KIND` (`bridge`, `veth`, …); None for hardware and loopback.
    pub kind: Option<String>,
    /// `ARPHRD_*` (1 Ethernet, 772 loopback, 32 InfiniBand).
    pub arphrd: u16,
    /// `IFF_UP`.
    pub admin_up: bool,
    /// `IFF_RUNNING` or operational state up/unknown while admin up.
    pub running: bool,
    /// `IFLA_CARRIER`, also while it is down. A tap has it as long as a program holds it open.
    pub carrier: bool,
    /// `IFF_PROMISC`.
    pub promiscuous: bool,
    /// `IFLA_ADDRESS`, `AA:BB:…`.
    pub mac: Option<String>,
    /// `IFLA_PERM_ADDRESS`, `AA:BB:…`.
    pub permanent_mac: Option<String>,
    /// `IFLA_MTU`, bytes.
    pub mtu: Option<u32>,
    /// `IFLA_MIN_MTU`, bytes; 0 means none given.
    pub min_mtu: Option<u32>,
    /// `IFLA_MAX_MTU`, bytes; 0 means none given.
    pub max_mtu: Option<u32>,
    /// `IFLA_MASTER`: index of the controller.
    pub controller: Option<u32>,
    /// `IFLA_LINK`: index of the parent, or of a veth's peer.
    pub parent: Option<u32>,
    /// `IFLA_LINK_NETNSID` present: parent or peer lives in another network namespace.
    pub parent_elsewhere: bool,
    /// `IFLA_INFO_DATA`.
    pub data: Option<InfoData>,
    /// `IFLA_INFO_PORT_DATA`: what its controller keeps of a port.
    pub port_data: Option<InfoPortData>,
    /// Bridge VLANs of a port or of the bridge itself (`IFLA_AF_SPEC` of an `AF_BRIDGE` dump).
    pub vlans: Vec<VlanRange>,
    /// Driver by `ethtool -i` or sysfs.
    pub driver: Option<String>,
    /// `0000:00:1f.4`.
    pub pci_address: Option<String>,
    /// Ethernet speed in Mb/s where the driver tells (`/sys/class/net/X/speed`).
    pub speed: Option<u32>,
    /// `full` or `half`.
    pub duplex: Option<String>,
    /// `/proc/sys/net/ipv6/conf/X/disable_ipv6` is 1, or the kernel has no IPv6.
    pub ipv6_disabled: bool,
    /// `/proc/sys/net/ipv4/conf/X/forwarding`.
    pub ipv4_forwarding: Option<bool>,
    /// `/proc/sys/net/ipv6/conf/X/addr_gen_mode`: 0 eui64, 1 none, 2 stable-privacy, 3 random.
    pub addr_gen_mode: Option<u8>,
    /// What the generic netlink family `ethtool` says.
    pub ethtool: Ethtool,
    /// Virtual functions of the hardware; None where it has none to give.
    pub sriov: Option<Sriov>,
}

/// Numbers by the document's word for them.
pub type Numbers = BTreeMap<&'static str, u32>;

/// What the driver of a link can be told. A kind is empty where the driver does not know it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ethtool {
    /// `ETHTOOL_MSG_FEATURES_GET`, by the kernel's name: `tx-tcp-segmentation`.
    pub features: BTreeMap<Arc<str>, Feature>,
    /// `ETHTOOL_MSG_LINKMODES_GET`: whether speed and duplex are negotiated.
    pub auto_negotiation: Option<bool>,
    /// `ETHTOOL_MSG_PAUSE_GET`: `autoneg`, `rx`, `tx`, each 0 or 1.
    pub pause: Numbers,
    /// `ETHTOOL_MSG_COALESCE_GET`: microseconds, frames, packets a second; `adaptive-rx` and `-tx` are 0 or 1.
    pub coalesce: Numbers,
    /// `ETHTOOL_MSG_RINGS_GET`: entries, and the most that there may be (`rx-max`).
    pub ring: Numbers,
    /// `ETHTOOL_MSG_CHANNELS_GET`: queues, and the most that there may be (`rx-max`).
    pub channels: Numbers,
    /// `ETHTOOL_MSG_FEC_GET`: `auto` is 0 or 1, each of `off`, `rs`, `baser`, `llrs` is 1 where it is configured.
    pub fec: Numbers,
}

/// One offload or other feature of a network device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Feature {
    /// In force.
    pub on: bool,
    /// A user may change it (`hw_features` of the device).
    pub changeable: bool,
}

/// Virtual functions of a PCI device (`/sys/class/net/X/device/sriov_*`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sriov {
    /// `sriov_totalvfs`: as many there may be.
    pub most: u32,
    /// `sriov_numvfs`: as many there are.
    pub count: u32,
    /// `sriov_drivers_autoprobe`: new ones get a driver, and so an interface.
    pub autoprobe: Option<bool>,
    /// `IFLA_VFINFO_LIST`, by id.
    pub vfs: Vec<Vf>,
}

/// One virtual function (`IFLA_VF_INFO`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vf {
    /// Its number, from 0.
    pub id: u32,
    /// Its interface (`device/virtfnN/net/`): None where it has no driver or lives in another namespace.
    pub interface: Option<String>,
    /// `IFLA_VF_MAC`, `AA:BB:…`.
    pub mac: Option<String>,
    /// `IFLA_VF_SPOOFCHK`.
    pub spoof_check: Option<bool>,
    /// `IFLA_VF_TRUST`.
    pub trust: Option<bool>,
    /// `IFLA_VF_RATE`, Mb/s; 0 is no limit.
    pub min_tx_rate: Option<u32>,
    /// `IFLA_VF_RATE`, Mb/s; 0 is no limit.
    pub max_tx_rate: Option<u32>,
    /// `IFLA_VF_VLAN`; 0 is none.
    pub vlan_id: Option<u32>,
    /// `IFLA_VF_VLAN`: priority in the tag.
    pub qos: Option<u32>,
    /// `IFLA_VF_VLAN_LIST`: the tag is of 802.1ad.
    pub vlan_ad: Option<bool>,
}

/// An address that multipath TCP uses (`MPTCP_PM_CMD_GET_ADDR`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MptcpEndpoint {
    /// The address.
    pub ip: IpAddr,
    /// Interface index; 0 where none is tied to it.
    pub link: u32,
    /// `MPTCP_PM_ADDR_FLAG_*`: 1 signal, 2 subflow, 4 backup, 8 fullmesh, 16 implicit.
    pub flags: u32,
}

impl Link {
    /// `IFLA_INFO_PORT_DATA` of a bridge's port; empty for others.
    pub fn bridge_port(&self) -> &[InfoBridgePort] {
        match &self.port_data {
            Some(InfoPortData::BridgePort(items)) => items,
            _ => &[],
        }
    }
}

/// A run of VLANs with the same flags on a bridge port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct VlanRange {
    /// First VLAN id, 1–4094.
    pub first: u16,
    /// Last VLAN id, inclusive.
    pub last: u16,
    /// `BRIDGE_VLAN_INFO_PVID`.
    pub pvid: bool,
    /// `BRIDGE_VLAN_INFO_UNTAGGED`.
    pub untagged: bool,
}

/// A kernel address (`RTM_GETADDR`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Interface index.
    pub link: u32,
    /// `IFA_LOCAL`, else `IFA_ADDRESS`.
    pub ip: IpAddr,
    /// `ifa_prefixlen`.
    pub prefix: u8,
    /// Not `IFA_F_PERMANENT`: it has a finite life (DHCP, RA).
    pub dynamic: bool,
    /// `IFA_CACHEINFO` valid life in seconds; None is for ever.
    pub valid: Option<u32>,
    /// `IFA_CACHEINFO` preferred life in seconds; None is for ever.
    pub preferred: Option<u32>,
    /// `IFA_PROTO`: 1 lo, 2 ra, 3 kernel link-local; 0 unspecified.
    pub protocol: u8,
    /// `IFA_F_DADFAILED`.
    pub duplicate: bool,
}

/// A kernel route (`RTM_GETROUTE`); one entry per next hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination network; the default route is `0.0.0.0/0` or `::/0`.
    pub destination: IpNet,
    /// `RTA_GATEWAY` / `RTA_VIA`.
    pub gateway: Option<IpAddr>,
    /// `RTA_OIF`: interface index.
    pub link: Option<u32>,
    /// `RTA_TABLE` (254 main).
    pub table: u32,
    /// `RTA_PRIORITY`.
    pub metric: Option<u32>,
    /// `rtm_protocol` (2 kernel, 3 boot, 4 static, 9 ra, 16 dhcp, …).
    pub protocol: u8,
    /// `rtm_scope` (0 universe, 253 link, 254 host).
    pub scope: u8,
    /// `rtm_type` (1 unicast, 6 blackhole, 7 unreachable, 8 prohibit).
    pub kind: u8,
    /// `RTA_PREFSRC`.
    pub source: Option<IpAddr>,
    /// Multipath weight 1–256; None where the route has one hop.
    pub weight: Option<u16>,
    /// `RTAX_*` values by lower-case kernel name: `mtu`, `advmss`, `cwnd`, `initcwnd`, `initrwnd`, `quickack`, `lock`.
    pub metrics: BTreeMap<&'static str, u32>,
}

/// A kernel routing rule (`RTM_GETRULE`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// AF_INET6.
    pub ipv6: bool,
    /// `FRA_SRC`.
    pub from: Option<IpNet>,
    /// `FRA_DST`.
    pub to: Option<IpNet>,
    /// `FRA_PRIORITY`.
    pub priority: u32,
    /// `FRA_TABLE`.
    pub table: u32,
    /// `FRA_FWMARK`.
    pub fwmark: Option<u32>,
    /// `FRA_FWMASK`.
    pub fwmask: Option<u32>,
    /// `FRA_IIFNAME`.
    pub iif: Option<String>,
    /// `FRA_ACT_*`: 1 table, 6 blackhole, 7 unreachable, 8 prohibit.
    pub action: u8,
    /// `FRA_SUPPRESS_PREFIXLEN`; None is -1.
    pub suppress_prefix_length: Option<u32>,
    /// `FRA_PROTOCOL`.
    pub protocol: u8,
}

/// A NetworkManager device (`org.freedesktop.NetworkManager.Device`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// D-Bus object path.
    pub path: String,
    /// `Interface`.
    pub interface: String,
    /// `DeviceType` (NM_DEVICE_TYPE_*): 1 ethernet, 13 bridge, 20 veth, 32 loopback, …
    pub device_type: u32,
    /// `State` (NM_DEVICE_STATE_*): 10 unmanaged, 20 unavailable, 30 disconnected, 100 activated, 110 deactivating, 120 failed.
    pub state: u32,
    /// `StateReason.1` (NM_DEVICE_STATE_REASON_*).
    pub reason: u32,
    /// `Managed`.
    pub managed: bool,
    /// `Real`: there is a kernel link behind it.
    pub real: bool,
    /// `ActiveConnection`, taken apart.
    pub active: Option<Active>,
    /// An active connection on its way up names it, which it does not name yet: it will leave what it is in now.
    #[serde(default)]
    pub queued: bool,
    /// `Autoconnect`.
    pub autoconnect: bool,
    /// `LldpNeighbors` (`aa{sv}`), as NetworkManager took them apart.
    #[serde(skip)]
    pub lldp: Vec<Dict>,
}

impl Device {
    /// Where its name is unique.
    pub fn space(&self) -> Space {
        Space::of_device_type(self.device_type)
    }

    /// Its name, and where that is unique.
    pub fn id(&self) -> Id {
        Id::in_space(self.interface.clone(), self.space())
    }

    /// Whether its active profile only mirrors what somebody else configured (`NM_ACTIVATION_STATE_FLAG_EXTERNAL`, 0x80).
    pub fn external(&self) -> bool {
        self.active.as_ref().is_some_and(|a| a.flags & 0x80 != 0)
    }

    /// On its way up or down, or about to be: NM_DEVICE_STATE_* 40 (prepare) to 60 (need-auth), 80 (ip-check), 90 (secondaries), 110
    /// (deactivating). One in 70 (ip-config) waits for a server, for as long as that takes.
    pub fn moving(&self) -> bool {
        self.queued || matches!(self.state, 40 | 50 | 60 | 80 | 90 | 110)
    }
}

/// A NetworkManager active connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Active {
    /// D-Bus object path.
    pub path: String,
    /// `Uuid` of the profile.
    pub uuid: String,
    /// `State` (NM_ACTIVE_CONNECTION_STATE_*): 1 activating, 2 activated, 3 deactivating, 4 deactivated.
    pub state: u32,
    /// `StateFlags` (NM_ACTIVATION_STATE_FLAG_*): 0x80 external.
    pub flags: u32,
}

/// A profile NetworkManager knows (`org.freedesktop.NetworkManager.Settings.Connection`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SavedProfile {
    /// D-Bus object path.
    pub path: String,
    /// `GetSettings`.
    pub profile: Profile,
    /// `Unsaved`: memory differs from the file.
    pub unsaved: bool,
    /// `Flags`: 1 unsaved, 2 generated by NetworkManager, 4 volatile, 8 external.
    pub flags: u32,
    /// `Filename`; empty for profiles in memory only.
    pub filename: String,
}

impl SavedProfile {
    /// `connection.uuid`.
    pub fn uuid(&self) -> &str {
        self.profile.str("connection", "uuid").unwrap_or("")
    }

    /// `connection.interface-name`.
    pub fn interface(&self) -> Option<&str> {
        self.profile.str("connection", "interface-name")
    }

    /// The interface it is for: by `connection.interface-name`, a VPN by `connection.id`.
    pub fn id(&self) -> Option<Id> {
        let space = Space::of_nm_type(self.profile.str("connection", "type").unwrap_or_default());
        let name = match space {
            Space::Vpn => self.profile.str("connection", "id")?,
            _ => self.interface()?,
        };
        Some(Id::in_space(name, space))
    }

    /// The hardware address that its interface must have (`802-3-ethernet.mac-address`), where no name says which it is.
    pub fn bound_to(&self) -> Option<String> {
        match self.profile.get("802-3-ethernet", "mac-address") {
            Some(Value::Bytes(mac)) if self.interface().is_none() && !mac.is_empty() => {
                Some(crate::scalar::mac_text(mac))
            }
            _ => None,
        }
    }

    /// May be active on several devices at once (`connection.multi-connect`: 0 default, 1 single, 2 manual-multiple, 3 multiple).
    pub fn is_shared(&self) -> bool {
        self.profile.int("connection", "multi-connect").unwrap_or(0) > 1
    }

    /// Written by a person or tool: one that NetworkManager generated, a volatile or an external one comes and goes by itself.
    pub fn stays(&self) -> bool {
        self.flags & 0xe == 0
    }

    /// On disk and written by a person or tool, so it is there after a reboot.
    pub fn persistent(&self) -> bool {
        // /var/run is the same place for a NetworkManager that was built so
        let volatile = ["/run/", "/var/run/"].iter().any(|at| self.filename.starts_with(at));
        !self.filename.is_empty() && !volatile && self.stays()
    }
}

/// DNS as NetworkManager holds it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// `DnsManager.Configuration`: running servers in order of priority, then as listed.
    pub servers: Vec<String>,
    /// `DnsManager.Configuration`: search domains.
    pub searches: Vec<String>,
    /// `GlobalDnsConfiguration`; None when it is empty.
    pub global: Option<GlobalDns>,
}

impl Dns {
    /// The servers that are asked: those of interfaces are not while there is a global setting.
    pub fn asked(&self) -> &[String] {
        self.global.as_ref().map_or(&self.servers, |g| &g.servers)
    }
}

/// `GlobalDnsConfiguration` with its single `*` domain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GlobalDns {
    /// `domains["*"].servers`.
    pub servers: Vec<String>,
    /// `searches`.
    pub searches: Vec<String>,
    /// `options`.
    pub options: Vec<String>,
}

/// Host names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hostname {
    /// `gethostname(2)`.
    pub running: Option<String>,
    /// NetworkManager `Settings.Hostname`, the static one.
    pub config: Option<String>,
}
