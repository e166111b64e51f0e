//! `type: xfrm`: where an IPsec daemon hands over what it decrypted. Made by that daemon; here it gets base properties and IP.

use serde::{Deserialize, Serialize};

use super::{Context, Kind};
use crate::error::Invalid;
use crate::facts::{Facts, Link};
use crate::profile::Profile;

/// Has no section of its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Xfrm {}

impl Kind for Xfrm {
    const TYPE: &'static str = "xfrm";
    const SECTIONS: &'static [&'static str] = &[];
    /// NetworkManager has no setting for it, but takes any link as a generic device.
    const NM_TYPE: &'static str = "generic";
    const LINK_KIND: &'static str = "xfrm";
    const LINK_SETTING: &'static str = "";
    const VIRTUAL: bool = true;

    fn from_facts(_link: &Link, _facts: &Facts) -> Self {
        Xfrm {}
    }

    fn validate(&self, cx: &Context<'_>) -> Result<(), Invalid> {
        match cx.new {
            true => Err(Invalid::new(
                "type",
                "an IPsec daemon makes xfrm interfaces; there is none of this name",
            )),
            false => Ok(()),
        }
    }

    fn to_profile(&self, profile: &mut Profile) {
        let Xfrm {} = self;
        profile.ensure("generic");
    }
}
