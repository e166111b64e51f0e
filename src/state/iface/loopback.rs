//! `type: loopback`: only `lo`, addresses and MTU.

use serde::{Deserialize, Serialize};

use super::Kind;
use crate::facts::{Facts, Link};
use crate::profile::Profile;

/// Has no section of its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loopback {}

impl Kind for Loopback {
    const TYPE: &'static str = "loopback";
    const SECTIONS: &'static [&'static str] = &[];
    const NM_TYPE: &'static str = "loopback";
    const VIRTUAL: bool = false;
    const LINK_SETTING: &'static str = "loopback";

    fn from_facts(_link: &Link, _facts: &Facts) -> Self {
        Loopback {}
    }

    fn to_profile(&self, profile: &mut Profile) {
        let Loopback {} = self;
        profile.ensure("loopback");
    }
}
