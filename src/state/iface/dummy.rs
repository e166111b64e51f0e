//! `type: dummy`: a link that swallows what is sent to it. Only base properties and IP.

use serde::{Deserialize, Serialize};

use super::Kind;
use crate::facts::{Facts, Link};
use crate::profile::Profile;

/// Has no section of its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dummy {}

impl Kind for Dummy {
    const TYPE: &'static str = "dummy";
    const SECTIONS: &'static [&'static str] = &[];
    const NM_TYPE: &'static str = "dummy";
    const VIRTUAL: bool = true;

    fn from_facts(_link: &Link, _facts: &Facts) -> Self {
        Dummy {}
    }

    fn to_profile(&self, profile: &mut Profile) {
        let Dummy {} = self;
        profile.ensure("dummy");
    }
}
