//! What any interface may carry besides its type's own sections, and the registry of these parts.
//! To add a part: its file, its line in `parts!`, its fixtures.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::Invalid;
use crate::facts::{Facts, Link};
use crate::profile::{self, Profile};
use crate::step::Effect;

use super::iface::{from_value, to_value};

pub mod alt_names;
pub mod dispatch;
pub mod ethtool;
pub mod ieee8021x;
pub mod ip;
pub mod lldp;
pub mod mptcp;
pub mod ovs_ids;
pub mod sriov;

/// What a part knows about itself. All pure.
pub trait Part: Clone + std::fmt::Debug + Default + PartialEq + Serialize + DeserializeOwned {
    /// Its key in an interface.
    const KEY: &'static str;
    /// Paths of secrets below the key.
    const SECRETS: &'static [&'static str] = &[];

    /// What a profile alone tells: secrets.
    fn from_profile(_profile: &Profile) -> Option<Self> {
        None
    }
    /// What the kernel and NetworkManager say; None where there is nothing to show.
    fn from_facts(link: &Link, facts: &Facts) -> Option<Self>;
    /// Faults that can be told without looking at the node. Paths start below the key.
    fn validate(&self) -> Result<(), Invalid> {
        Ok(())
    }
    /// What this node cannot do and that must be refused.
    fn refuse_unsupported(&self, _link: Option<&Link>, _facts: &Facts) -> Result<(), Invalid> {
        Ok(())
    }
    /// Faults of wish and what is there together.
    fn refuse_over(&self, _current: Option<&Self>) -> Result<(), Invalid> {
        Ok(())
    }
    /// Writes what was asked for over a profile; keys that are left out stay.
    fn to_profile(&self, profile: &mut Profile);
    /// What kernel and NetworkManager would show of a link with this profile: the other way round from `from_facts`.
    fn to_link(_profile: &Profile, _link: &mut Link) {}
    /// What NetworkManager takes for granted where a profile leaves this key out, if it is not nothing.
    fn nm_default(_setting: &str, _key: &str) -> Option<profile::Value> {
        None
    }
    /// Only links of the kernel have it.
    const KERNEL_ONLY: bool = false;
    /// What is kept outside the profile: changes that make it so for an interface that is to be up.
    fn effects(&self, _name: &str, _facts: &Facts) -> Vec<Effect> {
        vec![]
    }
    /// Removes what was kept outside the profile when the interface goes.
    fn leftovers(_name: &str, _facts: &Facts) -> Vec<Effect> {
        vec![]
    }
    /// Brings two readings to one form before they are compared.
    fn normalise(_tree: &mut Value) {}
}

macro_rules! parts {
    ($($field:ident: $ty:ty),* $(,)?) => {
        /// The parts of one interface.
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct Parts {
            $(#[allow(missing_docs)] pub $field: Option<$ty>,)*
        }

        impl Parts {
            /// Keys in the order in which they are printed.
            pub const KEYS: &'static [&'static str] = &[$(<$ty>::KEY),*];

            /// Parses the keys of an interface that belong to parts.
            pub fn from_tree(mut tree: Map<String, Value>) -> Result<Self, Invalid> {
                let mut parts = Parts::default();
                $(parts.$field = part::<$ty>(tree.remove(<$ty>::KEY))?;)*
                debug_assert!(tree.is_empty());
                Ok(parts)
            }

            /// What the kernel and NetworkManager say of a link.
            pub fn from_facts(link: &Link, facts: &Facts) -> Self {
                Parts { $($field: <$ty>::from_facts(link, facts),)* }
            }

            /// What a profile alone tells.
            pub fn from_profile(profile: &Profile) -> Self {
                Parts { $($field: <$ty>::from_profile(profile),)* }
            }

            /// Key and value of those that are there.
            pub fn tree(&self) -> Vec<(&'static str, Value)> {
                let mut tree = vec![];
                $(if let Some(part) = &self.$field { tree.push((<$ty>::KEY, to_value(part))); })*
                tree
            }

            /// Refuses what this node cannot do.
            pub fn refuse_unsupported(&self, link: Option<&Link>, facts: &Facts) -> Result<(), Invalid> {
                $(if let Some(part) = &self.$field {
                    part.refuse_unsupported(link, facts).map_err(|e| e.under(<$ty>::KEY))?;
                })*
                Ok(())
            }

            /// Refuses what cannot be laid over what is there.
            pub fn refuse_over(&self, current: Option<&Parts>) -> Result<(), Invalid> {
                $(if let Some(part) = &self.$field {
                    let now = current.and_then(|c| c.$field.as_ref());
                    part.refuse_over(now).map_err(|e| e.under(<$ty>::KEY))?;
                })*
                Ok(())
            }

            /// Refuses what only links of the kernel have.
            pub fn refuse_beyond_kernel(&self) -> Result<(), Invalid> {
                $(if <$ty>::KERNEL_ONLY && self.$field.is_some() {
                    return Err(Invalid::new(<$ty>::KEY, "only interfaces of the kernel have it"));
                })*
                Ok(())
            }

            /// Changes outside the profile that make them so.
            pub fn effects(&self, name: &str, facts: &Facts) -> Vec<Effect> {
                let mut all = vec![];
                $(all.extend(self.$field.iter().flat_map(|part| part.effects(name, facts)));)*
                all
            }

            /// Removes what was kept outside the profile of an interface that goes.
            pub fn leftovers(name: &str, facts: &Facts) -> Vec<Effect> {
                let mut all = vec![];
                $(all.extend(<$ty>::leftovers(name, facts));)*
                all
            }

            /// Writes them over a profile.
            pub fn to_profile(&self, profile: &mut Profile) {
                $(if let Some(part) = &self.$field { part.to_profile(profile); })*
            }

            /// What would be shown of a link with this profile.
            pub fn to_link(profile: &Profile, link: &mut Link) {
                $(<$ty>::to_link(profile, link);)*
            }

            /// What NetworkManager takes for granted, where it is not nothing.
            pub fn nm_default(setting: &str, key: &str) -> Option<profile::Value> {
                $(if let Some(default) = <$ty>::nm_default(setting, key) { return Some(default); })*
                None
            }

            /// Brings an interface's tree to the form in which wish and reading are compared.
            pub fn normalise(tree: &mut Map<String, Value>) {
                $(if let Some(value) = tree.get_mut(<$ty>::KEY) { <$ty>::normalise(value); })*
            }

            /// Paths below the interface of everything that may hold a secret.
            pub fn all_secrets() -> Vec<String> {
                let mut all = vec![];
                $(all.extend(<$ty>::SECRETS.iter().map(|s| format!("{}/{s}", <$ty>::KEY)));)*
                all
            }

            /// Likewise, of the parts that are there.
            pub fn secrets(&self) -> Vec<String> {
                let mut all = vec![];
                $(if self.$field.is_some() {
                    all.extend(<$ty>::SECRETS.iter().map(|s| format!("{}/{s}", <$ty>::KEY)));
                })*
                all
            }
        }
    };
}

parts! {
    mptcp: mptcp::Mptcp,
    lldp: lldp::Lldp,
    ieee8021x: ieee8021x::Ieee8021x,
    ethtool: ethtool::Ethtool,
    dispatch: dispatch::Dispatch,
    ovs_ids: ovs_ids::OvsIds,
}

fn part<T: Part>(value: Option<Value>) -> Result<Option<T>, Invalid> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let part: T = from_value(value).map_err(|e| e.under(T::KEY))?;
            part.validate().map_err(|e| e.under(T::KEY))?;
            Ok(Some(part))
        }
    }
}
