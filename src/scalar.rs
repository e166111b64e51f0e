//! Words and numbers of the document: lenient integers and booleans, interface names and identities, MAC addresses. Pure.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};

/// Reads an optional integer given as a number, a decimal string or a `0x…` string.
pub fn opt_int<'de, D, T>(de: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i64>,
{
    struct Int<T>(std::marker::PhantomData<T>);
    impl<T: TryFrom<i64>> Visitor<'_> for Int<T> {
        type Value = Option<T>;
        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            write!(f, "an integer of type {}", std::any::type_name::<T>())
        }
        fn visit_i64<E: de::Error>(self, v: i64) -> Result<Self::Value, E> {
            T::try_from(v)
                .map(Some)
                .map_err(|_| E::invalid_value(de::Unexpected::Signed(v), &self))
        }
        fn visit_u64<E: de::Error>(self, v: u64) -> Result<Self::Value, E> {
            match i64::try_from(v) {
                Ok(v) => self.visit_i64(v),
                Err(_) => Err(E::invalid_value(de::Unexpected::Unsigned(v), &self)),
            }
        }
        fn visit_str<E: de::Error>(self, v: &str) -> Result<Self::Value, E> {
            let parsed = match v.strip_prefix("0x") {
                Some(hex) => i64::from_str_radix(hex, 16),
                None => v.parse(),
            };
            match parsed {
                Ok(n) => self.visit_i64(n),
                Err(_) => Err(E::invalid_value(de::Unexpected::Str(v), &self)),
            }
        }
        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    }
    de.deserialize_any(Int(std::marker::PhantomData))
}

/// Reads an optional boolean given as such, as 0/1, or as one of `true yes on y false no off n`.
pub fn opt_bool<'de, D: Deserializer<'de>>(de: D) -> Result<Option<bool>, D::Error> {
    struct Bool;
    impl Visitor<'_> for Bool {
        type Value = Option<bool>;
        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("a boolean")
        }
        fn visit_bool<E: de::Error>(self, v: bool) -> Result<Self::Value, E> {
            Ok(Some(v))
        }
        fn visit_u64<E: de::Error>(self, v: u64) -> Result<Self::Value, E> {
            match v {
                0 => Ok(Some(false)),
                1 => Ok(Some(true)),
                _ => Err(E::invalid_value(de::Unexpected::Unsigned(v), &self)),
            }
        }
        fn visit_i64<E: de::Error>(self, v: i64) -> Result<Self::Value, E> {
            Err(E::invalid_value(de::Unexpected::Signed(v), &self))
        }
        fn visit_str<E: de::Error>(self, v: &str) -> Result<Self::Value, E> {
            match v.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "y" | "1" => Ok(Some(true)),
                "false" | "no" | "off" | "n" | "0" => Ok(Some(false)),
                _ => Err(E::invalid_value(de::Unexpected::Str(v), &self)),
            }
        }
        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    }
    de.deserialize_any(Bool)
}

/// Reads a boolean that must be there, as leniently as `opt_bool`.
pub fn bool<'de, D: Deserializer<'de>>(de: D) -> Result<bool, D::Error> {
    opt_bool(de)?.ok_or_else(|| de::Error::custom("a boolean is needed"))
}

/// Reads an integer that must be there, as leniently as `opt_int`.
pub fn int<'de, D, T>(de: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i64>,
{
    opt_int(de)?.ok_or_else(|| de::Error::custom("a number is needed"))
}

/// Reads an optional text that may look like something else: booleans become `yes` and `no`, numbers their decimal form.
pub fn opt_text<'de, D: Deserializer<'de>>(de: D) -> Result<Option<String>, D::Error> {
    struct Text;
    impl Visitor<'_> for Text {
        type Value = Option<String>;
        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("a text, a number or a boolean")
        }
        fn visit_bool<E: de::Error>(self, v: bool) -> Result<Self::Value, E> {
            Ok(Some(if v { "yes" } else { "no" }.to_owned()))
        }
        fn visit_u64<E: de::Error>(self, v: u64) -> Result<Self::Value, E> {
            Ok(Some(v.to_string()))
        }
        fn visit_i64<E: de::Error>(self, v: i64) -> Result<Self::Value, E> {
            Ok(Some(v.to_string()))
        }
        fn visit_f64<E: de::Error>(self, v: f64) -> Result<Self::Value, E> {
            Ok(Some(v.to_string()))
        }
        fn visit_str<E: de::Error>(self, v: &str) -> Result<Self::Value, E> {
            Ok(Some(v.to_owned()))
        }
        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    }
    de.deserialize_any(Text)
}

/// A password or key. Neither its `Debug` form nor an error about it shows it.
#[derive(Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl<'de> de::Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(de) {
            Ok(serde_json::Value::String(text)) => Ok(Secret(text)),
            // serde would quote the value
            _ => Err(de::Error::custom("a secret must be a text; put it in quotes")),
        }
    }
}

/// Where a name is unique. Kernel links share one space; Open vSwitch bridges and ports and VPNs may be called like a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Space {
    /// Links of the kernel.
    #[default]
    Kernel,
    /// Bridges in the database of Open vSwitch.
    OvsBridge,
    /// Ports in that database: NetworkManager has a profile for each, the document only lists them.
    OvsPort,
    /// VPNs of NetworkManager, by `connection.id`.
    Vpn,
}

impl Space {
    /// By `connection.type`.
    pub fn of_nm_type(nm_type: &str) -> Self {
        match nm_type {
            "ovs-bridge" => Space::OvsBridge,
            "ovs-port" => Space::OvsPort,
            "vpn" => Space::Vpn,
            _ => Space::Kernel,
        }
    }

    /// By `NM_DEVICE_TYPE_*`: 25 is an OVS port, 26 an OVS bridge.
    pub fn of_device_type(device_type: u32) -> Self {
        match device_type {
            25 => Space::OvsPort,
            26 => Space::OvsBridge,
            _ => Space::Kernel,
        }
    }
}

/// Which interface: a name and where it is unique.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Id {
    /// Name in its space.
    pub name: String,
    /// Its space.
    pub space: Space,
}

impl Id {
    /// A kernel link.
    pub fn kernel(name: impl Into<String>) -> Self {
        Id {
            name: name.into(),
            space: Space::Kernel,
        }
    }

    /// This name in another space.
    pub fn in_space(name: impl Into<String>, space: Space) -> Self {
        Id {
            name: name.into(),
            space,
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.space {
            Space::Kernel | Space::Vpn => f.write_str(&self.name),
            Space::OvsBridge => write!(f, "{} (ovs-bridge)", self.name),
            Space::OvsPort => write!(f, "{} (ovs-port)", self.name),
        }
    }
}

/// What is wrong with a kernel interface name: 1–15 bytes, no `/`, `:`, blank; not `.` or `..` (`dev_valid_name` in the kernel), and what
/// NetworkManager does not take besides, as it is something else in sysfs or sysctl (`nm_utils_ifname_valid_kernel`).
pub fn bad_interface_name(name: &str) -> Option<String> {
    let odd = |c: char| matches!(c, '/' | ':' | '%') || c.is_whitespace();
    if name.is_empty() {
        Some("an interface name must not be empty".to_owned())
    } else if name.len() > 15 {
        let n = name.len();
        Some(format!(
            "interface name '{name}' has {n} characters; the kernel allows 15"
        ))
    } else if name.contains(odd) || matches!(name, "." | "..") {
        let why = "may not be '.', '..' or hold '/', ':', '%' or blanks";
        Some(format!("interface name '{name}' {why}"))
    } else if matches!(name, "all" | "default" | "bonding_masters") {
        Some(format!(
            "'{name}' means something else to the kernel and cannot be the name of an interface"
        ))
    } else {
        None
    }
}

/// What is wrong with the name of something in Open vSwitch that is no kernel link: it may be longer (`nm_utils_ifname_valid` for
/// `NMU_IFACE_OVS`).
pub fn bad_ovs_name(name: &str) -> Option<String> {
    let odd = |c: char| matches!(c, '/' | '\\') || !c.is_ascii_graphic();
    if name.is_empty() {
        Some("a name must not be empty".to_owned())
    } else if name.contains(odd) || matches!(name, "." | "..") {
        let why = "may not be '.', '..' or hold '/', '\\', blanks or letters beyond ASCII";
        Some(format!("name '{name}' {why}"))
    } else {
        None
    }
}

/// A name server's address as the document has it: `fe80::1` as `fe80::1%eth0`; others as they are.
pub fn scoped(server: &str, interface: &str) -> String {
    match server.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V6(ip)) if ip.is_unicast_link_local() => format!("{server}%{interface}"),
        _ => server.to_owned(),
    }
}

/// Bytes of a hardware address as `AA:BB:…`.
pub fn mac_text(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(":")
}

/// The bytes of a hardware address; None where it is none.
pub fn mac_bytes(text: &str) -> Option<Vec<u8>> {
    text.split([':', '-']).map(|p| u8::from_str_radix(p, 16).ok()).collect()
}

/// A MAC address (6 bytes, or 20 for InfiniBand) as `AA:BB:…`; None where it is none.
pub fn mac(text: &str) -> Option<String> {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let ok = matches!(parts.len(), 6 | 20)
        && parts
            .iter()
            .all(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
    ok.then(|| parts.join(":").to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_would_refuse() {
        assert_eq!(bad_interface_name("br0"), None);
        assert!(
            bad_interface_name("abcdefghijklmnop")
                .unwrap()
                .contains("16 characters")
        );
        for bad in ["", ".", "..", "a b", "a/b", "a:b"] {
            assert!(bad_interface_name(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn a_secret_of_the_wrong_type_is_not_told() {
        let fault = serde_json::from_str::<Secret>("123456").unwrap_err().to_string();
        assert!(fault.contains("quotes") && !fault.contains("123456"), "{fault}");
        assert!(!format!("{:?}", Secret("hush".to_owned())).contains("hush"));
    }

    #[test]
    fn macs_are_upper_case_with_colons() {
        assert_eq!(mac("52-54-00-ab-cd-ef").unwrap(), "52:54:00:AB:CD:EF");
        assert_eq!(mac("52:54:00:ab:cd"), None);
        assert_eq!(mac_text(&mac_bytes("52-54-00-ab-cd-ef").unwrap()), "52:54:00:AB:CD:EF");
        assert_eq!(mac_bytes("52:xx"), None);
    }
}
