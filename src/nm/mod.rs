//! NetworkManager's side of the node, over D-Bus: one GetManagedObjects and the profiles, turned into facts; and the calls that change things.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tracing::debug;
use zbus::fdo::{ManagedObjects, ObjectManagerProxy};
use zbus::proxy::CacheProperties;
use zbus::{Connection, DBusError, ObjectPath, OwnedObjectPath, OwnedVariant, Variant};

use crate::error::{ErrorKind, HostError};
use crate::facts::{Active, Device, Dns, Facts, GlobalDns, SavedProfile};
use crate::profile::{Dict, Profile, Value};

pub mod checkpoint;
pub mod codec;
pub mod keyfile;
mod monitor;
pub mod proxy;

use proxy::{ActiveConnectionProxy, ConnectionProxy, DeviceProxy, ManagerProxy, SettingsManagerProxy};

const SERVICE: &str = "org.freedesktop.NetworkManager";
/// Settings that hold secrets and that we write.
const SECRETS: [&str; 4] = ["802-1x", "macsec", "wireguard", "vpn"];
/// No call of ours takes NetworkManager longer; the D-Bus default is 25 s too.
const CALL_TIMEOUT: Duration = Duration::from_secs(25);
/// Calls under way at once. The system bus cuts a connection off at 128 (dbus-daemon(1), `max_replies_per_connection`), and those
/// that we gave up count until NetworkManager has answered them.
const IN_FLIGHT: usize = 32;
/// How long udev may take to look at a new link; it has seconds of work where many links come at once.
const UDEV: Duration = Duration::from_secs(10);

type Properties = HashMap<String, OwnedVariant>;

/// One connection to the bus.
#[derive(Debug, Clone)]
pub struct NetworkManager {
    bus: Connection,
    events: watch::Receiver<u64>,
    turns: Arc<Semaphore>,
}

/// Wraps a D-Bus error with what was tried.
pub(crate) fn failed(tried: impl Into<String>) -> impl FnOnce(zbus::Error) -> HostError {
    let tried = tried.into();
    move |e| {
        let absent = [
            "org.freedesktop.DBus.Error.ServiceUnknown",
            "org.freedesktop.DBus.Error.NameHasNoOwner",
        ];
        let absent = error_name(&e).is_some_and(|n| absent.contains(&n.as_str()));
        match absent {
            true => HostError::Other(format!(
                "{tried}: NetworkManager does not answer on D-Bus (is NetworkManager.service running?)"
            )),
            false => HostError::Dbus {
                kind: fault_kind(&e),
                tried,
                source: Box::new(e),
            },
        }
    }
}

/// The D-Bus error's name, by whichever way zbus hands it on.
fn error_name(e: &zbus::Error) -> Option<String> {
    match e {
        zbus::Error::MethodError(name, ..) => Some(name.to_string()),
        zbus::Error::FDO(e) => Some(e.name().to_string()),
        zbus::Error::DBus(e) => Some(e.name().to_string()),
        _ => None,
    }
}

/// What sort of fault NetworkManager's answer is.
fn fault_kind(e: &zbus::Error) -> ErrorKind {
    let name = error_name(e).unwrap_or_default();
    let word = name.rsplit('.').next().unwrap_or_default();
    match word {
        "PermissionDenied" | "AccessDenied" | "AuthFailed" => ErrorKind::PermissionError,
        "MissingPlugin" => ErrorKind::DependencyError,
        // an older NetworkManager does not know a setting
        "InvalidSetting" => ErrorKind::DependencyError,
        _ if name.contains(".Settings.Connection.") => ErrorKind::InvalidArgument,
        _ => ErrorKind::PluginFailure,
    }
}

/// The object is not there (any more).
fn is_gone(e: &zbus::Error) -> bool {
    let gone = [
        "org.freedesktop.DBus.Error.UnknownMethod",
        "org.freedesktop.DBus.Error.UnknownObject",
    ];
    error_name(e).is_some_and(|n| gone.contains(&n.as_str()))
}

/// Has a call counted.
async fn call<T, E>(method: &'static str, call: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    crate::metrics::agent().dbus(method, call).await
}

fn path(text: &str) -> Result<ObjectPath<'_>, HostError> {
    ObjectPath::try_from(text).map_err(|e| HostError::Other(format!("'{text}' is not a D-Bus path: {e}")))
}

/// `BLOCK_AUTOCONNECT` (32): the profile does not come up by itself until it is activated. Whoever says it of one that is in force has a node
/// that stays without it when its card, its cable or its DHCP server was away for a while.
fn hold_back(in_force: bool) -> u32 {
    if in_force { 0 } else { 32 }
}

impl NetworkManager {
    /// Connects to the system bus (DBUS_SYSTEM_BUS_ADDRESS) and starts listening.
    pub async fn connect() -> Result<Self, HostError> {
        let bus = zbus::connection::Builder::system()
            .method_timeout(CALL_TIMEOUT)
            .build()
            .await
            .map_err(failed("connecting to the system bus"))?;
        let events = monitor::start(&bus).await?;
        Ok(NetworkManager {
            bus,
            events,
            turns: Arc::new(Semaphore::new(IN_FLIGHT)),
        })
    }

    /// Leave for one call; given back when it is dropped.
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // an error is for a closed semaphore, and nobody closes this one
        self.turns.acquire().await.ok()
    }

    /// Counts signals of NetworkManager.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.events.clone()
    }

    /// The manager object.
    pub(crate) async fn manager(&self) -> Result<ManagerProxy<'_>, HostError> {
        ManagerProxy::builder(&self.bus)
            .cache_properties(CacheProperties::No)
            .build()
            .await
            .map_err(failed("reaching NetworkManager"))
    }

    async fn connection(&self, at: &str) -> Result<ConnectionProxy<'_>, HostError> {
        let at = path(at)?.into_owned();
        ConnectionProxy::builder(&self.bus)
            .path(at)
            .cache_properties(CacheProperties::No)
            .build()
            .await
            .map_err(failed("reaching a profile"))
    }

    async fn settings(&self) -> Result<SettingsManagerProxy<'_>, HostError> {
        SettingsManagerProxy::builder(&self.bus)
            .cache_properties(CacheProperties::No)
            .build()
            .await
            .map_err(failed("reaching NetworkManager"))
    }

    async fn device(&self, at: &str) -> Result<DeviceProxy<'_>, HostError> {
        let at = path(at)?.into_owned();
        DeviceProxy::builder(&self.bus)
            .path(at)
            .cache_properties(CacheProperties::No)
            .build()
            .await
            .map_err(failed("reaching a device"))
    }

    /// Fills in devices, profiles, DNS, static host name and version. One GetManagedObjects, then all profiles at once.
    pub async fn fill(&self, facts: &mut Facts) -> Result<(), HostError> {
        let objects = self.objects().await?;
        let mut actives: HashMap<String, Active> = HashMap::new();
        let mut coming: Vec<(String, String)> = vec![];
        let mut settings = FuturesUnordered::new();
        for (at, interfaces) in &objects {
            for (interface, properties) in interfaces {
                match interface.as_str() {
                    "org.freedesktop.NetworkManager" => {
                        facts.nm_version = string(properties, "Version");
                        if let Some(Value::U32s(list)) = codec::property(properties, "Capabilities") {
                            facts.nm_capabilities = list;
                        }
                        facts.dns.global = global_dns(properties);
                    }
                    "org.freedesktop.NetworkManager.Settings" => {
                        facts.hostname.config = Some(string(properties, "Hostname")).filter(|h| !h.is_empty());
                    }
                    "org.freedesktop.NetworkManager.DnsManager" => running_dns(properties, &mut facts.dns),
                    "org.freedesktop.NetworkManager.Connection.Active" => {
                        let active = Active {
                            path: at.to_string(),
                            uuid: string(properties, "Uuid"),
                            state: number(properties, "State"),
                            flags: number(properties, "StateFlags"),
                        };
                        if property_bool(properties, "Vpn") {
                            facts.vpns.push(active.clone());
                        } else if active.state < 2 {
                            let devices = paths(properties, "Devices").into_iter();
                            coming.extend(devices.map(|device| (at.to_string(), device)));
                        }
                        actives.insert(at.to_string(), active);
                    }
                    "org.freedesktop.NetworkManager.Settings.Connection" => {
                        settings.push(self.saved(at.to_string(), properties))
                    }
                    _ => {}
                }
            }
        }
        while let Some(saved) = settings.next().await {
            facts.profiles.extend(saved?);
        }
        facts.profiles.sort_by(|a, b| a.path.cmp(&b.path));
        for (at, interfaces) in &objects {
            if let Some((_, properties)) = interfaces
                .iter()
                .find(|(i, _)| i.as_str() == "org.freedesktop.NetworkManager.Device")
            {
                facts.devices.push(device(at.to_string(), properties, &actives));
            }
        }
        set_queued(&mut facts.devices, &coming);
        facts.devices.sort_by(|a, b| a.interface.cmp(&b.interface));
        facts.taps = set_taps_apart(&mut facts.devices);
        Ok(())
    }

    /// What is active or on its way up: the profile's uuid by the path of the active connection. Only what is not in `met` is asked for
    /// it, so that this costs little where little is new, whatever the size of the node.
    pub async fn active(&self, met: &HashMap<String, String>) -> Result<HashMap<String, String>, HostError> {
        let manager = self.manager().await?;
        let all = call("Properties", manager.active_connections()).await;
        let mut active = HashMap::new();
        for at in all.map_err(failed("reading what is active"))? {
            let uuid = match met.get(at.as_str()) {
                Some(uuid) => Some(uuid.clone()),
                None => self.uuid_of(&at).await.map_err(failed("reading what is active"))?,
            };
            active.extend(uuid.map(|uuid| (at.to_string(), uuid)));
        }
        Ok(active)
    }

    /// The profile of an active connection that is up or on its way (NM_ACTIVE_CONNECTION_STATE 1 and 2).
    async fn uuid_of(&self, at: &OwnedObjectPath) -> zbus::Result<Option<String>> {
        let active = ActiveConnectionProxy::builder(&self.bus)
            .path(at.clone())
            .cache_properties(CacheProperties::No)
            .build()
            .await?;
        match call("Properties", async {
            futures::try_join!(active.state(), active.uuid())
        })
        .await
        {
            Ok((1 | 2, uuid)) => Ok(Some(uuid)),
            Ok(_) => Ok(None),
            Err(e) if is_gone(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn objects(&self) -> Result<ManagedObjects, HostError> {
        let _turn = self.turn().await;
        let objects = ObjectManagerProxy::builder(&self.bus)
            .destination(SERVICE)
            .path("/org/freedesktop")
            .cache_properties(CacheProperties::No)
            .build()
            .await
            .map_err(failed("reaching NetworkManager"))?;
        call("GetManagedObjects", objects.get_managed_objects())
            .await
            .map_err(|e| failed("reading NetworkManager's objects")(e.into()))
    }

    /// A profile; None where it went away meanwhile.
    async fn saved(&self, at: String, properties: &Properties) -> Result<Option<SavedProfile>, HostError> {
        let _turn = self.turn().await;
        match call("GetSettings", self.connection(&at).await?.get_settings()).await {
            Ok(settings) => Ok(Some(SavedProfile {
                profile: self.with_secrets(&at, codec::decode(&settings)).await,
                unsaved: property_bool(properties, "Unsaved"),
                flags: number(properties, "Flags"),
                filename: string(properties, "Filename"),
                path: at,
            })),
            Err(e) if is_gone(&e) => Ok(None),
            Err(e) => Err(failed(format!("reading profile {at}"))(e)),
        }
    }

    /// AddConnection2, or Update2 of the profile at `at`. Gives the path. One that is not `in_force` is held back: activation is ours to order.
    pub async fn save(
        &self,
        label: &str,
        profile: &Profile,
        at: Option<&str>,
        memory_only: bool,
        in_force: bool,
    ) -> Result<String, HostError> {
        // NM_SETTINGS_ADD_CONNECTION2_FLAG_*/UPDATE2_FLAG_*: TO_DISK 1, IN_MEMORY 2
        let flags = if memory_only { 2 } else { 1 } | hold_back(in_force);
        let _turn = self.turn().await;
        let tried = format!("saving the profile of {label}");
        match at {
            Some(at) => {
                let connection = self.connection(at).await?;
                let update = connection.update2(codec::encode(profile), flags, HashMap::new());
                call("Update2", update).await.map_err(failed(tried))?;
                Ok(at.to_owned())
            }
            None => {
                let manager = self.settings().await?;
                let add = manager.add_connection2(codec::encode(profile), flags, HashMap::new());
                let (at, _) = call("AddConnection2", add).await.map_err(failed(tried))?;
                Ok(at.to_string())
            }
        }
    }

    /// Writes the profile at `at` to disk as it is in memory, and applies nothing of it. One that is not `in_force` does not come up by that.
    pub async fn keep(&self, label: &str, at: &str, in_force: bool) -> Result<(), HostError> {
        // NM_SETTINGS_UPDATE2_FLAG_*: TO_DISK 1, NO_REAPPLY 64; no settings are those that it has
        let flags = 1 | 64 | hold_back(in_force);
        let _turn = self.turn().await;
        let connection = self.connection(at).await?;
        let update = connection.update2(HashMap::new(), flags, HashMap::new());
        let done = call("Update2", update).await;
        done.map(|_| ())
            .map_err(failed(format!("writing the profile of {label} to disk")))
    }

    /// GetSettings leaves secrets out: asks for those of the settings that may have some. What cannot be had stays out.
    async fn with_secrets(&self, at: &str, mut profile: Profile) -> Profile {
        let has: Vec<&str> = SECRETS
            .into_iter()
            .filter(|s| profile.settings.contains_key(*s))
            .collect();
        if has.is_empty() {
            return profile;
        }
        let Ok(connection) = self.connection(at).await else {
            return profile;
        };
        let ask = |setting: &&'static str| call("GetSecrets", connection.get_secrets(setting));
        let answers = join_all(has.iter().map(ask)).await;
        for (setting, answer) in has.iter().zip(answers) {
            match answer {
                Ok(secrets) => profile.add_secrets(codec::decode(&secrets)),
                Err(e) => debug!("the secrets of {setting} in {at} cannot be read: {e}"),
            }
        }
        profile
    }

    /// Deletes a profile; one that is gone already is fine.
    pub async fn forget(&self, label: &str, at: &str) -> Result<(), HostError> {
        let _turn = self.turn().await;
        gone_is_fine(call("Delete", self.connection(at).await?.delete()).await)
            .map_err(failed(format!("deleting the profile of {label}")))
    }

    /// Activates the profile at `connection` on the device at `device`; None lets NetworkManager make it.
    pub async fn activate(&self, label: &str, connection: &str, device: Option<&str>) -> Result<(), HostError> {
        let _turn = self.turn().await;
        let (connection, root) = (path(connection)?, path("/")?);
        let mut device = device.map(path).transpose()?.unwrap_or_else(|| root.clone());
        let manager = self.manager().await?;
        let mut events = self.subscribe();
        let begin = tokio::time::Instant::now();
        loop {
            let activate = manager.activate_connection(&connection, &device, &root);
            let answer = call("ActivateConnection", activate).await;
            let patient = begin.elapsed() < UDEV;
            match answer {
                Err(e) if patient && before_udev(&e) => {}
                // NetworkManager finds or makes the one that the profile is for
                Err(e) if patient && lost_device(&e) => device = root.clone(),
                done => {
                    return done.map(|_| ()).map_err(|e| {
                        let tried = format!("activating the profile of {label}");
                        match vpn_fault(&e) {
                            Some(why) => HostError::Missing(format!("{tried}: {why}")),
                            None => failed(tried)(e),
                        }
                    });
                }
            }
            let _ = tokio::time::timeout(Duration::from_millis(200), events.changed()).await;
        }
    }

    /// Takes an active connection down; one that is gone already is fine.
    pub async fn deactivate(&self, label: &str, active: &str) -> Result<(), HostError> {
        let _turn = self.turn().await;
        let active = path(active)?;
        gone_is_fine(
            call(
                "DeactivateConnection",
                self.manager().await?.deactivate_connection(&active),
            )
            .await,
        )
        .map_err(failed(format!("taking {label} down")))
    }

    /// Keeps the static host name; empty removes it.
    pub async fn save_hostname(&self, name: &str) -> Result<(), HostError> {
        let done = call("SaveHostname", self.settings().await?.save_hostname(name)).await;
        done.map_err(failed("saving the static host name"))
    }

    /// `SetHostname` of systemd-hostnamed: the running name, until it is set again.
    pub async fn set_running_hostname(&self, name: &str) -> Result<(), HostError> {
        let (to, at) = ("org.freedesktop.hostname1", "/org/freedesktop/hostname1");
        let done = self
            .bus
            .call_method(Some(to), at, Some(to), "SetHostname", &(name, false))
            .await;
        done.map(|_| ()).map_err(failed("setting the running host name"))
    }

    /// Reapplies the device's profile as it is saved. False where NetworkManager says that a change needs activation.
    pub async fn reapply(&self, at: &str) -> Result<bool, HostError> {
        let _turn = self.turn().await;
        let device = self.device(at).await?;
        Ok(call("Reapply", device.reapply(HashMap::new(), 0, 0)).await.is_ok())
    }

    /// Takes a device down and keeps it from connecting by itself; one that is down already is fine.
    pub async fn disconnect(&self, label: &str, at: &str) -> Result<(), HostError> {
        let _turn = self.turn().await;
        gone_is_fine(call("Disconnect", self.device(at).await?.disconnect()).await)
            .map_err(failed(format!("disconnecting {label}")))
    }

    /// Removes a software link; one that is gone already is fine.
    pub async fn remove_link(&self, label: &str, at: &str) -> Result<(), HostError> {
        let _turn = self.turn().await;
        gone_is_fine(call("Delete", self.device(at).await?.delete()).await)
            .map_err(failed(format!("removing the link {label}")))
    }

    /// Sets or clears the global DNS configuration.
    pub async fn set_global_dns(&self, dns: Option<&GlobalDns>) -> Result<(), HostError> {
        let mut value: HashMap<String, Variant<'_>> = HashMap::new();
        if let Some(GlobalDns {
            servers,
            searches,
            options,
        }) = dns
        {
            let any: HashMap<String, Variant<'_>> = [("servers".to_owned(), Variant::from(servers.clone()))].into();
            let domains: HashMap<String, Variant<'_>> = [("*".to_owned(), Variant::from(any))].into();
            value.insert("domains".to_owned(), Variant::from(domains));
            value.insert("searches".to_owned(), Variant::from(searches.clone()));
            value.insert("options".to_owned(), Variant::from(options.clone()));
        }
        call("Properties", self.manager().await?.set_global_dns_configuration(value))
            .await
            .map_err(failed("setting the global DNS configuration"))
    }
}

/// What NetworkManager means when it refuses to activate a VPN (its error texts are not translated on D-Bus).
fn vpn_fault(e: &zbus::Error) -> Option<String> {
    let text = e.to_string();
    if text.contains("Could not find source connection") {
        return Some("no connection is active over which the VPN could run".to_owned());
    }
    let service = text
        .split_once("The VPN service '")?
        .1
        .split_once("' was not installed")?
        .0;
    let plugin = service.rsplit('.').next().unwrap_or(service);
    Some(format!(
        "the {plugin} plug-in of NetworkManager is missing: install NetworkManager-{plugin}"
    ))
}

/// Without its kernel module Open vSwitch makes an internal interface of a tap: NetworkManager then has a device of type
/// OVS_INTERFACE (24) and one of type TUN (16) with that name, and the second says nothing.
fn set_taps_apart(devices: &mut Vec<Device>) -> Vec<Device> {
    let ovs: HashSet<String> = devices
        .iter()
        .filter(|d| d.device_type == 24)
        .map(|d| d.interface.clone())
        .collect();
    let (taps, rest) = std::mem::take(devices)
        .into_iter()
        .partition(|d| d.device_type == 16 && ovs.contains(&d.interface));
    *devices = rest;
    taps
}

/// A link that has just come up by itself, such as a veth's other end, is nobody's until udev has looked at it.
fn before_udev(e: &zbus::Error) -> bool {
    error_name(e).is_some_and(|n| n.ends_with(".UnknownConnection")) && e.to_string().contains("unmanaged")
}

/// The device went while NetworkManager was asked: the link of a port may go down with its controller, to be made anew.
fn lost_device(e: &zbus::Error) -> bool {
    let cancelled = |n: &str| n.ends_with(".PermissionDenied") && e.to_string().contains("cancelled");
    error_name(e).is_some_and(|n| n.ends_with(".UnknownDevice") || cancelled(&n))
}

/// What we wanted away is away.
fn gone_is_fine(answer: zbus::Result<()>) -> zbus::Result<()> {
    let down = [
        "org.freedesktop.NetworkManager.Device.NotActive",
        "org.freedesktop.NetworkManager.Device.NotSoftware",
        "org.freedesktop.NetworkManager.UnknownDevice",
        "org.freedesktop.NetworkManager.ConnectionNotActive",
    ];
    match answer {
        Err(e) if is_gone(&e) || error_name(&e).is_some_and(|n| down.contains(&n.as_str())) => Ok(()),
        other => other,
    }
}

fn string(properties: &Properties, key: &str) -> String {
    match codec::property(properties, key) {
        Some(Value::Str(s)) => s,
        _ => String::new(),
    }
}

fn paths(properties: &Properties, key: &str) -> Vec<String> {
    match codec::property(properties, key) {
        Some(Value::Strs(paths)) => paths,
        _ => vec![],
    }
}

fn number(properties: &Properties, key: &str) -> u32 {
    match codec::property(properties, key) {
        Some(Value::U32(n)) => n,
        _ => 0,
    }
}

fn property_bool(properties: &Properties, key: &str) -> bool {
    codec::property(properties, key) == Some(Value::Bool(true))
}

fn device(path: String, properties: &Properties, actives: &HashMap<String, Active>) -> Device {
    let reason = match properties.get("StateReason").map(|v| &**v) {
        Some(Variant::Structure(s)) => match s.fields().get(1) {
            Some(Variant::U32(n)) => *n,
            _ => 0,
        },
        _ => 0,
    };
    Device {
        path,
        interface: string(properties, "Interface"),
        device_type: number(properties, "DeviceType"),
        state: number(properties, "State"),
        reason,
        managed: property_bool(properties, "Managed"),
        real: property_bool(properties, "Real"),
        active: actives.get(&string(properties, "ActiveConnection")).cloned(),
        queued: false,
        autoconnect: property_bool(properties, "Autoconnect"),
        lldp: match codec::property(properties, "LldpNeighbors") {
            Some(Value::Dicts(neighbours)) => neighbours,
            _ => vec![],
        },
    }
}

/// Tells devices of active connections (path, and that of the device) that they do not name yet.
fn set_queued(devices: &mut [Device], coming: &[(String, String)]) {
    let named = devices.iter().filter_map(|d| Some(d.active.as_ref()?.path.clone()));
    let named: HashSet<String> = named.collect();
    let queued = coming.iter().filter(|(active, _)| !named.contains(active));
    let queued: HashSet<&String> = queued.map(|(_, device)| device).collect();
    for device in devices {
        device.queued = queued.contains(&device.path);
    }
}

fn strs(d: &Dict, key: &str) -> Vec<String> {
    match d.get(key) {
        Some(Value::Strs(v)) => v.clone(),
        _ => vec![],
    }
}

fn global_dns(properties: &Properties) -> Option<GlobalDns> {
    let Some(Value::Dict(d)) = codec::property(properties, "GlobalDnsConfiguration") else {
        return None;
    };
    let servers = match d.get("domains") {
        Some(Value::Dict(domains)) => match domains.get("*") {
            Some(Value::Dict(any)) => strs(any, "servers"),
            _ => vec![],
        },
        _ => vec![],
    };
    let dns = GlobalDns {
        servers,
        searches: strs(&d, "searches"),
        options: strs(&d, "options"),
    };
    (dns != GlobalDns::default()).then_some(dns)
}

fn running_dns(properties: &Properties, dns: &mut Dns) {
    let Some(Value::Dicts(entries)) = codec::property(properties, "Configuration") else {
        return;
    };
    let priority = |d: &Dict| match d.get("priority") {
        Some(Value::I32(p)) => *p,
        _ => 0,
    };
    let mut entries = entries;
    entries.sort_by_key(priority);
    for entry in &entries {
        let interface = match entry.get("interface") {
            Some(Value::Str(name)) => name.as_str(),
            _ => "",
        };
        for (list, key) in [(&mut dns.servers, "nameservers"), (&mut dns.searches, "domains")] {
            for item in strs(entry, key) {
                let item = crate::scalar::scoped(&item, interface);
                if !list.contains(&item) {
                    list.push(item);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_queued_for_what_it_does_not_name_yet() {
        let named = |path: &str| Active {
            path: path.to_owned(),
            state: 1,
            ..Active::default()
        };
        let device = |path: &str, active: Option<&str>| Device {
            path: path.to_owned(),
            active: active.map(named),
            ..Device::default()
        };
        // waits for DHCP; rests before it comes up anew; goes from one profile to the other
        let mut devices = vec![device("d1", Some("a1")), device("d2", None), device("d3", Some("a3"))];
        let coming = [("a1", "d1"), ("a2", "d2"), ("a4", "d3")];
        set_queued(&mut devices, &coming.map(|(a, d)| (a.to_owned(), d.to_owned())));
        let queued: Vec<bool> = devices.iter().map(|d| d.queued).collect();
        assert_eq!(queued, [false, true, true]);
        assert!(devices[1].moving());
    }

    #[test]
    fn the_bus_tells_what_sort_of_fault_it_is() {
        let kind = |e: zbus::fdo::Error| failed("saving")(e.into()).kind();
        let denied = zbus::fdo::Error::AccessDenied("no".to_owned());
        assert_eq!(kind(denied), ErrorKind::PermissionError);
        let late = zbus::fdo::Error::Timeout("late".to_owned());
        assert_eq!(kind(late), ErrorKind::PluginFailure);
        let plug_in = HostError::Missing("activating the profile of vpn0: install it".to_owned());
        assert_eq!(plug_in.kind(), ErrorKind::DependencyError);
    }
}
