//! `ethtool`: what the driver of a link is told: offloads, flow control, interrupt moderation, rings, queues, error correction.
//!
//! Kept in NetworkManager's setting of the same name, one key each. A key that is left out leaves the driver as it is.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::Part;
use crate::error::{ErrorKind, Invalid};
use crate::facts::{self, Facts, Feature, Link, Numbers};
use crate::profile::{self, Profile};
use crate::scalar;

/// `ethtool`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ethtool {
    /// Flow control.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    /// Offloads and the like, by the kernel's name; the usual short names are understood.
    #[serde(default, deserialize_with = "features", skip_serializing_if = "Option::is_none")]
    pub feature: Option<BTreeMap<String, bool>>,
    /// Interrupt moderation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coalesce: Option<Coalesce>,
    /// Sizes of descriptor rings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring: Option<Ring>,
    /// Numbers of queues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<Channels>,
    /// Forward error correction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fec: Option<Fec>,
}

/// A number or a switch of a driver; the kernel keeps both as a number.
trait Word: Sized + Copy {
    fn read<'de, D: Deserializer<'de>>(de: D) -> Result<Option<Self>, D::Error>;
    fn of(number: u32) -> Self;
    fn number(self) -> u32;
}

impl Word for u32 {
    fn read<'de, D: Deserializer<'de>>(de: D) -> Result<Option<Self>, D::Error> {
        scalar::opt_int(de)
    }
    fn of(number: u32) -> Self {
        number
    }
    fn number(self) -> u32 {
        self
    }
}

impl Word for bool {
    fn read<'de, D: Deserializer<'de>>(de: D) -> Result<Option<Self>, D::Error> {
        scalar::opt_bool(de)
    }
    fn of(number: u32) -> Self {
        number != 0
    }
    fn number(self) -> u32 {
        self.into()
    }
}

fn word<'de, D: Deserializer<'de>, T: Word>(de: D) -> Result<Option<T>, D::Error> {
    T::read(de)
}

/// A group of numbers and switches: field, type, and the word of document, facts and (behind a prefix) NetworkManager.
macro_rules! group {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $ty:ty = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        pub struct $name {
            $(
                $(#[$field_doc])*
                #[serde(default, deserialize_with = "word", skip_serializing_if = "Option::is_none")]
                pub $field: Option<$ty>,
            )*
        }

        impl $name {
            fn from_numbers(numbers: &Numbers) -> Option<Self> {
                let found = $name { $($field: numbers.get($word).map(|n| <$ty>::of(*n)),)* };
                (found != $name::default()).then_some(found)
            }

            /// The words of the group.
            fn words() -> Vec<&'static str> {
                vec![$($word),*]
            }

            fn numbers(&self) -> Numbers {
                let $name { $($field),* } = self;
                let all = [$(($word, $field.map(Word::number))),*];
                all.into_iter().filter_map(|(word, n)| Some((word, n?))).collect()
            }
        }
    };
}

group! {
    /// `pause`. `rx` and `tx` count where `autoneg` is off; written without it they switch it off.
    Pause {
        /// Agree with the partner on flow control.
        autoneg: bool = "autoneg",
        /// Obey pause frames.
        rx: bool = "rx",
        /// Send pause frames.
        tx: bool = "tx",
    }
}

group! {
    /// `coalesce`: how long the hardware waits before it interrupts.
    Coalesce {
        /// Let the driver choose.
        adaptive_rx: bool = "adaptive-rx",
        /// Let the driver choose.
        adaptive_tx: bool = "adaptive-tx",
        /// Packets a second.
        pkt_rate_high: u32 = "pkt-rate-high",
        /// Packets a second.
        pkt_rate_low: u32 = "pkt-rate-low",
        /// Frames.
        rx_frames: u32 = "rx-frames",
        /// Frames, above `pkt-rate-high`.
        rx_frames_high: u32 = "rx-frames-high",
        /// Frames, while an interrupt is served.
        rx_frames_irq: u32 = "rx-frames-irq",
        /// Frames, below `pkt-rate-low`.
        rx_frames_low: u32 = "rx-frames-low",
        /// Microseconds.
        rx_usecs: u32 = "rx-usecs",
        /// Microseconds, above `pkt-rate-high`.
        rx_usecs_high: u32 = "rx-usecs-high",
        /// Microseconds, while an interrupt is served.
        rx_usecs_irq: u32 = "rx-usecs-irq",
        /// Microseconds, below `pkt-rate-low`.
        rx_usecs_low: u32 = "rx-usecs-low",
        /// Seconds.
        sample_interval: u32 = "sample-interval",
        /// Microseconds.
        stats_block_usecs: u32 = "stats-block-usecs",
        /// Frames.
        tx_frames: u32 = "tx-frames",
        /// Frames, above `pkt-rate-high`.
        tx_frames_high: u32 = "tx-frames-high",
        /// Frames, while an interrupt is served.
        tx_frames_irq: u32 = "tx-frames-irq",
        /// Frames, below `pkt-rate-low`.
        tx_frames_low: u32 = "tx-frames-low",
        /// Microseconds.
        tx_usecs: u32 = "tx-usecs",
        /// Microseconds, above `pkt-rate-high`.
        tx_usecs_high: u32 = "tx-usecs-high",
        /// Microseconds, while an interrupt is served.
        tx_usecs_irq: u32 = "tx-usecs-irq",
        /// Microseconds, below `pkt-rate-low`.
        tx_usecs_low: u32 = "tx-usecs-low",
    }
}

group! {
    /// `ring`: entries. What ends in `-max` is only read.
    Ring {
        /// Receive ring.
        rx: u32 = "rx",
        /// Its limit.
        rx_max: u32 = "rx-max",
        /// Ring for jumbo frames.
        rx_jumbo: u32 = "rx-jumbo",
        /// Its limit.
        rx_jumbo_max: u32 = "rx-jumbo-max",
        /// Ring for small frames.
        rx_mini: u32 = "rx-mini",
        /// Its limit.
        rx_mini_max: u32 = "rx-mini-max",
        /// Send ring.
        tx: u32 = "tx",
        /// Its limit.
        tx_max: u32 = "tx-max",
    }
}

group! {
    /// `channels`: queues. What ends in `-max` is only read.
    Channels {
        /// Receive only.
        rx: u32 = "rx",
        /// Its limit.
        rx_max: u32 = "rx-max",
        /// Send only.
        tx: u32 = "tx",
        /// Its limit.
        tx_max: u32 = "tx-max",
        /// For link interrupts and the like.
        other: u32 = "other",
        /// Its limit.
        other_max: u32 = "other-max",
        /// Both ways.
        combined: u32 = "combined",
        /// Its limit.
        combined_max: u32 = "combined-max",
    }
}

/// `fec`. With `auto: true` the mode does not count.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fec {
    /// Let the driver choose by the module that is plugged in.
    #[serde(
        default,
        deserialize_with = "scalar::opt_bool",
        skip_serializing_if = "Option::is_none"
    )]
    pub auto: Option<bool>,
    /// The code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<FecMode>,
}

/// `fec.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FecMode {
    /// None.
    Off,
    /// Reed-Solomon.
    Rs,
    /// Fire code of 10GBASE-R.
    Baser,
    /// Low latency Reed-Solomon.
    Llrs,
}

impl FecMode {
    /// Mode, word in facts, bit of NetworkManager's `fec-mode` (`NM_SETTING_ETHTOOL_FEC_MODE_*`).
    const ALL: [(FecMode, &'static str, u32); 4] = [
        (FecMode::Off, "off", 1 << 2),
        (FecMode::Rs, "rs", 1 << 3),
        (FecMode::Baser, "baser", 1 << 4),
        (FecMode::Llrs, "llrs", 1 << 5),
    ];
}

/// `NM_SETTING_ETHTOOL_FEC_MODE_AUTO`.
const FEC_AUTO: u32 = 1 << 1;

impl Fec {
    fn from_numbers(numbers: &Numbers) -> Option<Self> {
        let on = |word: &str| numbers.get(word).is_some_and(|n| *n != 0);
        let mode = FecMode::ALL.iter().rev().find(|(_, word, _)| on(word)).map(|m| m.0);
        let auto = numbers.get("auto").map(|n| *n != 0);
        (auto.is_some() || mode.is_some()).then_some(Fec { auto, mode })
    }

    fn bits(&self) -> u32 {
        let Fec { auto, mode } = self;
        match (auto, mode) {
            (Some(true), _) | (_, None) => FEC_AUTO,
            (_, Some(mode)) => FecMode::ALL.iter().filter(|m| m.0 == *mode).map(|m| m.2).sum(),
        }
    }
}

/// Other words for features, as `ethtool -K` takes them.
const ALIASES: &[(&str, &str)] = &[
    ("rx", "rx-checksum"),
    ("rx-checksumming", "rx-checksum"),
    ("ufo", "tx-udp-fragmentation"),
    ("tso", "tx-tcp-segmentation"),
    ("tcp-segmentation-offload", "tx-tcp-segmentation"),
    ("gso", "tx-generic-segmentation"),
    ("generic-segmentation-offload", "tx-generic-segmentation"),
    ("gro", "rx-gro"),
    ("generic-receive-offload", "rx-gro"),
    ("lro", "rx-lro"),
    ("large-receive-offload", "rx-lro"),
    ("rxvlan", "rx-vlan-hw-parse"),
    ("rx-vlan-offload", "rx-vlan-hw-parse"),
    ("txvlan", "tx-vlan-hw-insert"),
    ("tx-vlan-offload", "tx-vlan-hw-insert"),
    ("ntuple", "rx-ntuple-filter"),
    ("ntuple-filters", "rx-ntuple-filter"),
    ("rxhash", "rx-hashing"),
    ("receive-hashing", "rx-hashing"),
];

/// Features that NetworkManager can set, and its word where that is not the kernel's (`NM_ETHTOOL_OPTNAME_FEATURE_*`).
/// `tso` and `sg` stand for a group: NetworkManager switches what goes with them, too.
const FEATURES: &[(&str, &str)] = &[
    ("esp-hw-offload", ""),
    ("esp-tx-csum-hw-offload", ""),
    ("fcoe-mtu", ""),
    ("highdma", ""),
    ("hw-tc-offload", ""),
    ("l2-fwd-offload", ""),
    ("loopback", ""),
    ("macsec-hw-offload", ""),
    ("rx-all", ""),
    ("rx-checksum", "rx"),
    ("rx-fcs", ""),
    ("rx-gro", "gro"),
    ("rx-gro-hw", ""),
    ("rx-gro-list", ""),
    ("rx-hashing", "rxhash"),
    ("rx-lro", "lro"),
    ("rx-ntuple-filter", "ntuple"),
    ("rx-udp-gro-forwarding", ""),
    ("rx-udp_tunnel-port-offload", ""),
    ("rx-vlan-filter", ""),
    ("rx-vlan-hw-parse", "rxvlan"),
    ("rx-vlan-stag-filter", ""),
    ("rx-vlan-stag-hw-parse", ""),
    ("tls-hw-record", ""),
    ("tls-hw-rx-offload", ""),
    ("tls-hw-tx-offload", ""),
    ("tx-checksum-fcoe-crc", ""),
    ("tx-checksum-ip-generic", ""),
    ("tx-checksum-ipv4", ""),
    ("tx-checksum-ipv6", ""),
    ("tx-checksum-sctp", ""),
    ("tx-esp-segmentation", ""),
    ("tx-fcoe-segmentation", ""),
    ("tx-generic-segmentation", "gso"),
    ("tx-gre-csum-segmentation", ""),
    ("tx-gre-segmentation", ""),
    ("tx-gso-list", ""),
    ("tx-gso-partial", ""),
    ("tx-gso-robust", ""),
    ("tx-ipxip4-segmentation", ""),
    ("tx-ipxip6-segmentation", ""),
    ("tx-nocache-copy", ""),
    ("tx-scatter-gather", "sg"),
    ("tx-scatter-gather-fraglist", ""),
    ("tx-sctp-segmentation", ""),
    ("tx-tcp-ecn-segmentation", ""),
    ("tx-tcp-mangleid-segmentation", ""),
    ("tx-tcp-segmentation", "tso"),
    ("tx-tcp6-segmentation", ""),
    ("tx-tunnel-remcsum-segmentation", ""),
    ("tx-udp-segmentation", ""),
    ("tx-udp_tnl-csum-segmentation", ""),
    ("tx-udp_tnl-segmentation", ""),
    ("tx-vlan-hw-insert", "txvlan"),
    ("tx-vlan-stag-hw-insert", ""),
];

/// NetworkManager's key of a feature.
fn feature_key(kernel: &str) -> Option<String> {
    let (name, nm) = FEATURES.iter().find(|(name, _)| *name == kernel)?;
    Some(format!("feature-{}", if nm.is_empty() { name } else { nm }))
}

/// Real booleans only; aliases become the kernel's names.
fn features<'de, D: Deserializer<'de>>(de: D) -> Result<Option<BTreeMap<String, bool>>, D::Error> {
    let Some(given) = Option::<BTreeMap<String, bool>>::deserialize(de)? else {
        return Ok(None);
    };
    let mut named = BTreeMap::new();
    for (name, on) in given {
        let kernel = ALIASES
            .iter()
            .find(|(alias, _)| *alias == name)
            .map_or(name.as_str(), |a| a.1);
        if named.insert(kernel.to_owned(), on).is_some_and(|before| before != on) {
            return Err(D::Error::custom(format!("'{kernel}' is given twice, once as '{name}'")));
        }
    }
    Ok(Some(named))
}

/// What is said of what only other cards have.
const NOT_OFFERED: &str = "the driver of this interface does not offer it";

/// Refuses numbers that the driver does not know or that are beyond its limit.
fn within(group: &str, wish: &Numbers, now: &Numbers) -> Result<(), Invalid> {
    for (word, n) in wish.iter().filter(|(word, _)| !word.ends_with("-max")) {
        let fault = |reason: String| {
            Err(Invalid::of(
                ErrorKind::NotSupportedError,
                format!("{group}.{word}"),
                reason,
            ))
        };
        match (now.get(word), now.get(format!("{word}-max").as_str())) {
            (None, _) => return fault(NOT_OFFERED.to_owned()),
            (_, Some(most)) if n > most => return fault(format!("{n} is more than the {most} that the hardware has")),
            _ => {}
        }
    }
    Ok(())
}

fn feature_changeable(name: &str, on: bool, link: &facts::Ethtool) -> Result<(), Invalid> {
    let word = |on: bool| if on { "on" } else { "off" };
    let reason = match link.features.get(name) {
        Some(Feature { changeable: true, .. }) => return Ok(()),
        Some(feature) => format!("the driver of this interface keeps it {}", word(feature.on)),
        None if on => "the driver of this interface does not have it".to_owned(),
        None => "the driver of this interface does not have it, so it is off".to_owned(),
    };
    Err(Invalid::new(format!("feature.{name}"), reason))
}

impl Part for Ethtool {
    const KEY: &'static str = "ethtool";

    fn from_facts(link: &Link, _facts: &Facts) -> Option<Self> {
        let facts::Ethtool {
            features,
            pause,
            coalesce,
            ring,
            channels,
            fec,
            auto_negotiation: _, // section `ethernet` shows it
        } = &link.ethtool;
        let feature: BTreeMap<String, bool> = features
            .iter()
            .filter(|(name, feature)| feature.changeable && feature_key(name).is_some())
            .map(|(name, feature)| (name.to_string(), feature.on))
            .collect();
        let found = Ethtool {
            pause: Pause::from_numbers(pause),
            feature: (!feature.is_empty()).then_some(feature),
            coalesce: Coalesce::from_numbers(coalesce),
            ring: Ring::from_numbers(ring),
            channels: Channels::from_numbers(channels),
            fec: Fec::from_numbers(fec),
        };
        (found != Ethtool::default()).then_some(found)
    }

    fn validate(&self) -> Result<(), Invalid> {
        match &self.fec {
            Some(Fec { auto, mode: None }) if *auto != Some(true) => {
                Err(Invalid::new("fec.mode", "a mode is needed where auto is not true"))
            }
            _ => Ok(()),
        }
    }

    fn refuse_unsupported(&self, link: Option<&Link>, facts: &Facts) -> Result<(), Invalid> {
        for name in self.feature.iter().flatten().map(|(name, _)| name) {
            if feature_key(name).is_none() {
                let path = format!("feature.{name}");
                let reason = "NetworkManager cannot set this feature";
                return Err(Invalid::of(ErrorKind::NotSupportedError, path, reason));
            }
        }
        if self.channels.is_some() {
            facts.needs_nm("1.46", "channels", "setting the number of queues")?;
        }
        if self.fec.is_some() {
            facts.needs_nm("1.52", "fec", "forward error correction")?;
        }
        // nothing at all was read: a kernel without the family, or a link yet to be made
        let Some(now) = link.map(|l| &l.ethtool).filter(|e| **e != facts::Ethtool::default()) else {
            return Ok(());
        };
        for (name, on) in self.feature.iter().flatten() {
            feature_changeable(name, *on, now)?;
        }
        let of = |group: Option<Numbers>| group.unwrap_or_default();
        within("pause", &of(self.pause.as_ref().map(Pause::numbers)), &now.pause)?;
        within(
            "coalesce",
            &of(self.coalesce.as_ref().map(Coalesce::numbers)),
            &now.coalesce,
        )?;
        within("ring", &of(self.ring.as_ref().map(Ring::numbers)), &now.ring)?;
        within(
            "channels",
            &of(self.channels.as_ref().map(Channels::numbers)),
            &now.channels,
        )?;
        match self.fec.is_some() && now.fec.is_empty() {
            true => Err(Invalid::of(ErrorKind::NotSupportedError, "fec", NOT_OFFERED)),
            false => Ok(()),
        }
    }

    fn to_profile(&self, profile: &mut Profile) {
        let Ethtool {
            pause,
            feature,
            coalesce,
            ring,
            channels,
            fec,
        } = self;
        for (name, on) in feature.iter().flatten() {
            if let Some(key) = feature_key(name) {
                profile.put("ethtool", &key, *on);
            }
        }
        if let Some(pause) = pause {
            let mut wish = pause.numbers();
            if wish.get("autoneg") == Some(&1) {
                // NetworkManager refuses rx and tx beside autoneg
                for word in ["rx", "tx"] {
                    wish.remove(word);
                    profile.remove("ethtool", &format!("pause-{word}"));
                }
            } else if !wish.is_empty() {
                wish.insert("autoneg", 0);
            }
            for (word, n) in wish {
                profile.put("ethtool", &format!("pause-{word}"), n != 0);
            }
        }
        for (prefix, numbers) in [
            ("coalesce", coalesce.as_ref().map(Coalesce::numbers)),
            ("ring", ring.as_ref().map(Ring::numbers)),
            ("channels", channels.as_ref().map(Channels::numbers)),
        ] {
            for (word, n) in numbers.iter().flatten().filter(|(word, _)| !word.ends_with("-max")) {
                profile.put("ethtool", &format!("{prefix}-{word}"), *n);
            }
        }
        if let Some(fec) = fec {
            profile.put("ethtool", "fec-mode", fec.bits());
        }
    }

    fn to_link(profile: &Profile, link: &mut Link) {
        let Some(keys) = profile.settings.get("ethtool") else {
            return;
        };
        for (kernel, _) in FEATURES {
            let key = feature_key(kernel).unwrap_or_default();
            if let Some(profile::Value::Bool(on)) = keys.get(&key) {
                let feature = Feature {
                    on: *on,
                    changeable: true,
                };
                link.ethtool.features.insert((*kernel).into(), feature);
            }
        }
        let words = |prefix: &str, into: &mut Numbers, words: Vec<&'static str>| {
            for word in words {
                let key = format!("{prefix}-{word}");
                let n = match keys.get(&key) {
                    Some(profile::Value::Bool(on)) => Some(u32::from(*on)),
                    Some(profile::Value::U32(n)) => Some(*n),
                    _ => None,
                };
                into.extend(n.map(|n| (word, n)));
            }
        };
        let e = &mut link.ethtool;
        words("pause", &mut e.pause, Pause::words());
        words("coalesce", &mut e.coalesce, Coalesce::words());
        words("ring", &mut e.ring, Ring::words());
        words("channels", &mut e.channels, Channels::words());
        if let Some(profile::Value::U32(bits)) = keys.get("fec-mode") {
            e.fec = Numbers::from([("auto", u32::from(bits & FEC_AUTO != 0))]);
            let configured = FecMode::ALL.iter().filter(|m| bits & m.2 != 0);
            e.fec.extend(configured.map(|m| (m.1, 1)));
        }
    }

    fn normalise(tree: &mut Value) {
        let drop = |tree: &mut Value, group: &str, key: &str| {
            if let Some(Value::Object(map)) = tree.get_mut(group) {
                map.remove(key);
            }
        };
        for group in ["ring", "channels"] {
            if let Some(Value::Object(map)) = tree.get_mut(group) {
                map.retain(|key, _| !key.ends_with("-max"));
            }
        }
        if tree.pointer("/pause/autoneg") == Some(&Value::Bool(true)) {
            drop(tree, "pause", "rx");
            drop(tree, "pause", "tx");
        }
        if tree.pointer("/fec/auto") == Some(&Value::Bool(true)) {
            drop(tree, "fec", "mode");
        }
    }
}
