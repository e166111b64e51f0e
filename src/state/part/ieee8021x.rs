//! `802.1x`: who we are to the switch. NetworkManager's setting `802-1x`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Part;
use crate::error::Invalid;
use crate::facts::{Facts, Link};
use crate::profile::{self, Profile};
use crate::scalar::Secret;

/// `802.1x`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Ieee8021x {
    /// Login name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// `tls`, `peap`, `ttls`, …; the switch chooses one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eap_methods: Option<Vec<String>>,
    /// File with our key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<String>,
    /// File with our certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<String>,
    /// File with the certificate of who signs for the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_cert: Option<String>,
    /// Opens the file with our key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key_password: Option<Secret>,
    /// Method inside the tunnel of peap, ttls and fast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase2_auth: Option<String>,
    /// Password of the identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
}

const SETTING: &str = "802-1x";
/// Before a path in NetworkManager's values, which end with a zero byte.
const SCHEME: &str = "file://";
/// What NetworkManager takes as `802-1x.phase2-auth`.
const INNER: [&str; 8] = ["pap", "chap", "mschap", "mschapv2", "gtc", "otp", "md5", "tls"];

/// What NetworkManager takes as `802-1x.eap`.
const METHODS: [&str; 9] = ["leap", "md5", "tls", "peap", "ttls", "pwd", "fast", "sim", "external"];

fn to_bytes(path: &str) -> Vec<u8> {
    let plain = path.strip_prefix(SCHEME).unwrap_or(path);
    format!("{SCHEME}{plain}\0").into_bytes()
}

fn to_path(value: Option<&profile::Value>) -> Option<String> {
    let Some(profile::Value::Bytes(bytes)) = value else {
        return None;
    };
    let text = std::str::from_utf8(bytes.strip_suffix(&[0]).unwrap_or(bytes)).ok()?;
    text.strip_prefix(SCHEME).map(str::to_owned)
}

impl Part for Ieee8021x {
    const KEY: &'static str = "802.1x";
    const SECRETS: &'static [&'static str] = &["password", "private-key-password"];
    const KERNEL_ONLY: bool = true;

    fn from_profile(profile: &Profile) -> Option<Self> {
        profile.settings.get(SETTING)?;
        let text = |key: &str| profile.str(SETTING, key).filter(|t| !t.is_empty()).map(str::to_owned);
        let eap = profile.strs(SETTING, "eap");
        Some(Ieee8021x {
            identity: text("identity"),
            eap_methods: (!eap.is_empty()).then(|| eap.to_vec()),
            private_key: to_path(profile.get(SETTING, "private-key")),
            client_cert: to_path(profile.get(SETTING, "client-cert")),
            ca_cert: to_path(profile.get(SETTING, "ca-cert")),
            private_key_password: text("private-key-password").map(Secret),
            phase2_auth: text("phase2-auth"),
            password: text("password").map(Secret),
        })
    }

    fn from_facts(link: &Link, facts: &Facts) -> Option<Self> {
        Self::from_profile(facts.own_profile(&link.name)?)
    }

    fn validate(&self) -> Result<(), Invalid> {
        let methods = self.eap_methods.as_ref();
        if methods.is_some_and(Vec::is_empty) {
            return Err(Invalid::new("eap-methods", "at least one method is needed"));
        }
        for (i, method) in methods.into_iter().flatten().enumerate() {
            if !METHODS.contains(&method.as_str()) {
                let why = format!("'{method}' is none of {}", METHODS.join(", "));
                return Err(Invalid::new(format!("eap-methods[{i}]"), why));
            }
        }
        let inner = self.phase2_auth.as_deref().filter(|m| !m.is_empty());
        if let Some(wrong) = inner.filter(|m| !INNER.contains(m)) {
            let why = format!("'{wrong}' is none of {}", INNER.join(", "));
            return Err(Invalid::new("phase2-auth", why));
        }
        for (key, path) in [
            ("private-key", &self.private_key),
            ("client-cert", &self.client_cert),
            ("ca-cert", &self.ca_cert),
        ] {
            let plain = path.as_deref().map(|p| p.strip_prefix(SCHEME).unwrap_or(p));
            if let Some(wrong) = plain.filter(|p| !p.is_empty() && !p.starts_with('/')) {
                return Err(Invalid::new(key, format!("'{wrong}' is not an absolute path")));
            }
        }
        Ok(())
    }

    fn refuse_unsupported(&self, link: Option<&Link>, facts: &Facts) -> Result<(), Invalid> {
        // ARPHRD_ETHER; NetworkManager lets only cards and veths talk to a switch
        let fits = |l: &Link| l.arphrd == 1 && l.kind.as_deref().is_none_or(|k| k == "veth");
        let stored = |l: &Link| Self::from_facts(l, facts).and_then(|now| now.eap_methods);
        match link {
            Some(link) if !fits(link) => Err(Invalid::new("", "only Ethernet cards and veths can have it")),
            Some(link) if self.eap_methods.is_none() && stored(link).is_none() => {
                Err(Invalid::new("eap-methods", "it is needed: none is stored"))
            }
            _ => Ok(()),
        }
    }

    fn to_profile(&self, profile: &mut Profile) {
        let Ieee8021x {
            identity,
            eap_methods,
            private_key,
            client_cert,
            ca_cert,
            private_key_password,
            phase2_auth,
            password,
        } = self;
        profile.ensure(SETTING);
        for (key, text) in [("identity", identity), ("phase2-auth", phase2_auth)] {
            if let Some(text) = text {
                profile.put_opt(SETTING, key, Some(text.clone()).filter(|t| !t.is_empty()));
            }
        }
        for (key, path) in [
            ("private-key", private_key),
            ("client-cert", client_cert),
            ("ca-cert", ca_cert),
        ] {
            if let Some(path) = path {
                profile.put_opt(SETTING, key, Some(to_bytes(path)).filter(|_| !path.is_empty()));
            }
        }
        if let Some(methods) = eap_methods {
            profile.put(SETTING, "eap", methods.clone());
        }
        for (key, secret) in [("password", password), ("private-key-password", private_key_password)] {
            if let Some(Secret(text)) = secret {
                profile.put_opt(SETTING, key, Some(text.clone()).filter(|t| !t.is_empty()));
                profile.put(SETTING, &format!("{key}-flags"), 0u32);
            }
        }
    }

    fn normalise(tree: &mut Value) {
        let Value::Object(map) = tree else { return };
        for (key, value) in map.iter_mut() {
            match value.as_str() {
                Some("") => *value = Value::Null,
                Some(text) if ["private-key", "client-cert", "ca-cert"].contains(&key.as_str()) => {
                    *value = text.strip_prefix(SCHEME).unwrap_or(text).into();
                }
                _ => {}
            }
        }
    }
}
