//! `alt-names`: extra names of a link. The kernel has them until the link goes; a `.link` file of systemd's gives them back.

use std::collections::BTreeSet;

use crate::error::Invalid;
use crate::facts::{Facts, Link};
use crate::state::iface::{AltName, State};
use crate::step::Effect;

/// `ALTIFNAMSIZ` of the kernel, less the zero byte.
const LONGEST: usize = 127;

/// Where the names of a link are kept. 97 comes before systemd's own 99-default.link, of which only the first match counts.
fn path(name: &str) -> String {
    format!("{FOLDER}/{PREFIX}{name}.link")
}

/// systemd's folder for `.link` files of the administrator.
pub const FOLDER: &str = "/etc/systemd/network";
/// How our files there begin.
pub const PREFIX: &str = "97-netwright-";

/// Faults that can be told without looking at the node.
pub fn validate(names: &[AltName]) -> Result<(), Invalid> {
    for (i, AltName { name, state }) in names.iter().enumerate() {
        let odd = |c: char| c == '/' || c == ':' || c.is_whitespace();
        let why = if name.is_empty() {
            "a name must not be empty".to_owned()
        } else if name.len() > LONGEST {
            format!("it has {} characters; the kernel allows {LONGEST}", name.len())
        } else if name.contains(odd) {
            format!("'{name}' may not hold '/', ':' or blanks")
        } else if !matches!(state, None | Some(State::Absent)) {
            return Err(Invalid::new(
                format!("alt-names[{i}].state"),
                "only absent can be asked for",
            ));
        } else {
            continue;
        };
        return Err(Invalid::new(format!("alt-names[{i}].name"), why));
    }
    Ok(())
}

fn split(names: &[AltName]) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let absent = |n: &&AltName| n.state == Some(State::Absent);
    (
        names.iter().filter(|n| !absent(n)).map(|n| n.name.as_str()).collect(),
        names.iter().filter(absent).map(|n| n.name.as_str()).collect(),
    )
}

/// The names that a file of ours gives.
fn kept(file: &str) -> BTreeSet<&str> {
    file.lines()
        .filter_map(|l| l.strip_prefix("AlternativeName="))
        .collect()
}

/// The whole file. What 99-default.link would do for the link must be said again, as it is not looked at any more.
fn file(name: &str, link: Option<&Link>, names: &BTreeSet<&str>) -> String {
    let mac = link
        .filter(|l| l.kind.is_none() && l.arphrd == 1)
        .and_then(|l| match (&l.permanent_mac, &l.mac) {
            (Some(mac), _) => Some(format!("PermanentMACAddress={mac}")),
            (None, Some(mac)) => Some(format!("MACAddress={mac}")),
            (None, None) => None,
        });
    let find = match mac {
        // a VLAN on it has its address but another type
        Some(mac) => format!("{mac}\nType=ether"),
        None => format!("OriginalName={name}"),
    };
    let names: Vec<String> = names.iter().map(|n| format!("AlternativeName={n}\n")).collect();
    format!(
        "# Written by netwright for the alt-names of {name}.\n[Match]\n{find}\n\n[Link]\n\
         NamePolicy=keep kernel database onboard slot path\n\
         AlternativeNamesPolicy=database onboard slot path\n\
         MACAddressPolicy=persistent\n{}",
        names.concat()
    )
}

/// A name that udev gives by itself, at each start: `enp1s0`, `eno1`, `ens3`, `enx525400123456` (systemd.net-naming-scheme(7)).
fn is_udevs(name: &str) -> bool {
    let rest = ["en", "ib", "sl", "wl", "ww"].iter().find_map(|p| name.strip_prefix(p));
    let mut rest = rest.unwrap_or_default().chars();
    rest.next().is_some_and(|c| "bcdiopPsuvxX".contains(c)) && rest.next().is_some_and(|c| c.is_ascii_hexdigit())
}

/// Changes that give a link its names now and after a restart. `fresh`: the link is made anew and has none.
pub fn effects(names: &[AltName], name: &str, fresh: bool, memory_only: bool, facts: &Facts) -> Vec<Effect> {
    let link = facts.link(name);
    let path = path(name);
    let before = facts.files.get(&path).map(String::as_str);
    let (wanted, unwanted) = split(names);
    let has = |n: &str| !fresh && link.is_some_and(|l| l.alt_names.iter().any(|a| a == n));
    let mut stay = before.map(kept).unwrap_or_default();
    stay.extend(wanted.iter().filter(|n| !(has(n) && is_udevs(n))));
    stay.retain(|n| !unwanted.contains(n));
    let should = if fresh { &stay } else { &wanted };
    let add: Vec<String> = should.iter().filter(|n| !has(n)).map(|n| (*n).to_owned()).collect();
    let remove: Vec<String> = unwanted.iter().filter(|n| has(n)).map(|n| (*n).to_owned()).collect();
    let mut effects = vec![];
    if !add.is_empty() || !remove.is_empty() {
        effects.push(Effect::AltNames {
            link: name.to_owned(),
            add,
            remove,
        });
    }
    let content = (!stay.is_empty()).then(|| file(name, link, &stay));
    if !memory_only && before.map(kept) != content.as_deref().map(kept) {
        effects.push(Effect::File {
            path,
            content,
            mode: 0o644,
        });
    }
    effects
}

/// Forgets the names of an interface that goes; where its link `stays`, it loses those that were kept for it.
pub fn leftovers(name: &str, stays: bool, facts: &Facts) -> Vec<Effect> {
    let path = path(name);
    let Some(file) = facts.files.get(&path) else {
        return vec![];
    };
    let link = facts.link(name).filter(|_| stays);
    let has = |n: &&str| link.is_some_and(|l| l.alt_names.iter().any(|a| a == n));
    let remove: Vec<String> = kept(file).into_iter().filter(has).map(str::to_owned).collect();
    let names = (!remove.is_empty()).then(|| Effect::AltNames {
        link: name.to_owned(),
        add: vec![],
        remove,
    });
    let forget = Effect::File {
        path,
        content: None,
        mode: 0o644,
    };
    names.into_iter().chain([forget]).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_of_udev_are_known() {
        let (of_udev, others) = (
            ["enp1s0", "eno1", "ens3f1", "enx525400abcdef", "wlp2s0", "enP2p1s0"],
            ["eth0", "uplink", "enough", "en", "storage"],
        );
        assert!(of_udev.iter().all(|n| super::is_udevs(n)));
        assert!(!others.iter().any(|n| super::is_udevs(n)));
    }

    use super::*;

    #[test]
    fn hardware_is_found_by_its_address_and_keeps_its_name() {
        let link = Link {
            arphrd: 1,
            permanent_mac: Some("02:00:00:00:00:01".to_owned()),
            ..Link::default()
        };
        let text = file("eth1", Some(&link), &BTreeSet::from(["left", "uplink"]));
        assert!(text.contains("[Match]\nPermanentMACAddress=02:00:00:00:00:01\nType=ether\n"));
        assert!(text.contains("NamePolicy=keep kernel"), "else it would be called eth0");
        assert_eq!(kept(&text), BTreeSet::from(["left", "uplink"]));
        assert!(file("br0", None, &BTreeSet::from(["a"])).contains("OriginalName=br0"));
    }
}
