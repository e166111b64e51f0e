//! NetworkManager's D-Bus interfaces, as far as we call them (NetworkManager D-Bus API reference).

use std::collections::HashMap;

use zbus::{ObjectPath, OwnedObjectPath, OwnedVariant, Variant};

/// `a{sa{sv}}` on its way out.
pub type Settings<'a> = HashMap<String, HashMap<String, Variant<'a>>>;
/// `a{sa{sv}}` on its way in.
pub type OwnedSettings = HashMap<String, HashMap<String, OwnedVariant>>;

#[zbus::proxy(
    interface = "org.freedesktop.NetworkManager",
    default_service = "org.freedesktop.NetworkManager",
    default_path = "/org/freedesktop/NetworkManager"
)]
pub trait Manager {
    fn activate_connection(
        &self,
        connection: &ObjectPath<'_>,
        device: &ObjectPath<'_>,
        specific: &ObjectPath<'_>,
    ) -> zbus::Result<OwnedObjectPath>;
    fn deactivate_connection(&self, active: &ObjectPath<'_>) -> zbus::Result<()>;
    fn checkpoint_create(&self, devices: &[ObjectPath<'_>], timeout: u32, flags: u32) -> zbus::Result<OwnedObjectPath>;
    fn checkpoint_destroy(&self, checkpoint: &ObjectPath<'_>) -> zbus::Result<()>;
    fn checkpoint_rollback(&self, checkpoint: &ObjectPath<'_>) -> zbus::Result<HashMap<String, u32>>;
    fn checkpoint_adjust_rollback_timeout(&self, checkpoint: &ObjectPath<'_>, add: u32) -> zbus::Result<()>;
    #[zbus(property)]
    fn active_connections(&self) -> zbus::Result<Vec<OwnedObjectPath>>;
    #[zbus(property)]
    fn checkpoints(&self) -> zbus::Result<Vec<OwnedObjectPath>>;
    #[zbus(property)]
    fn set_global_dns_configuration(&self, value: HashMap<String, Variant<'_>>) -> zbus::Result<()>;
}

#[zbus::proxy(
    interface = "org.freedesktop.NetworkManager.Settings",
    default_service = "org.freedesktop.NetworkManager",
    default_path = "/org/freedesktop/NetworkManager/Settings"
)]
pub trait SettingsManager {
    fn add_connection2(
        &self,
        settings: Settings<'_>,
        flags: u32,
        args: HashMap<String, Variant<'_>>,
    ) -> zbus::Result<(OwnedObjectPath, HashMap<String, OwnedVariant>)>;
    fn save_hostname(&self, hostname: &str) -> zbus::Result<()>;
}

#[zbus::proxy(
    interface = "org.freedesktop.NetworkManager.Settings.Connection",
    default_service = "org.freedesktop.NetworkManager"
)]
pub trait Connection {
    fn get_settings(&self) -> zbus::Result<OwnedSettings>;
    fn get_secrets(&self, setting: &str) -> zbus::Result<OwnedSettings>;
    fn update2(
        &self,
        settings: Settings<'_>,
        flags: u32,
        args: HashMap<String, Variant<'_>>,
    ) -> zbus::Result<HashMap<String, OwnedVariant>>;
    fn delete(&self) -> zbus::Result<()>;
}

#[zbus::proxy(
    interface = "org.freedesktop.NetworkManager.Device",
    default_service = "org.freedesktop.NetworkManager"
)]
pub trait Device {
    fn reapply(&self, settings: Settings<'_>, version: u64, flags: u32) -> zbus::Result<()>;
    fn disconnect(&self) -> zbus::Result<()>;
    fn delete(&self) -> zbus::Result<()>;
}

#[zbus::proxy(
    interface = "org.freedesktop.NetworkManager.Connection.Active",
    default_service = "org.freedesktop.NetworkManager"
)]
pub trait ActiveConnection {
    #[zbus(property)]
    fn uuid(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn state(&self) -> zbus::Result<u32>;
}
