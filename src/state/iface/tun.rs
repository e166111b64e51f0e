//! `type: tun`: a tun or tap that a program made. It is shown, may be listed as a port where it is one, and can be removed; nothing else.

use serde::{Deserialize, Serialize};

use super::Kind;
use crate::facts::{Facts, Link};
use crate::profile::Profile;

/// Has no section of its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tun {}

impl Kind for Tun {
    const TYPE: &'static str = "tun";
    const SECTIONS: &'static [&'static str] = &[];
    const NM_TYPE: &'static str = "";
    const LINK_KIND: &'static str = "tun";
    const LINK_SETTING: &'static str = "";
    const VIRTUAL: bool = true;

    fn from_facts(_link: &Link, _facts: &Facts) -> Self {
        Tun {}
    }

    /// It is never configured.
    fn to_profile(&self, _profile: &mut Profile) {
        let Tun {} = self;
    }
}
