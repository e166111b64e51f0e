//! Every file under `tests/offline/` is a case of what is said of a document without a node.
//!
//! `desired` is the wish. `verdict` is what `validate` and the webhook find: `fits`, or else the fault, which `never` says that no node makes up for;
//! `profiles` (profile → section → key → value, null for none) is what is in the files of `gc`, `only` their names; `error` is what `gc` says instead.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use netwright::nm::keyfile;
use netwright::plan::offline::{self, Verdict};
use netwright::state::NetworkState;
use netwright::yaml;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    desired: Value,
    #[serde(default)]
    verdict: Option<String>,
    #[serde(default)]
    never: bool,
    #[serde(default)]
    only: Option<Vec<String>>,
    #[serde(default)]
    profiles: BTreeMap<String, BTreeMap<String, BTreeMap<String, Option<String>>>>,
    #[serde(default)]
    error: Option<String>,
}

/// Section → key → value of a file.
fn sections(text: &str) -> BTreeMap<&str, BTreeMap<&str, &str>> {
    let mut out: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    let mut section = "";
    for line in text.lines() {
        match (
            line.strip_prefix('[').and_then(|l| l.strip_suffix(']')),
            line.split_once('='),
        ) {
            (Some(name), _) => section = name,
            (None, Some((key, value))) => drop(out.entry(section).or_default().insert(key, value)),
            _ => {}
        }
    }
    out
}

fn check(path: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let case: Case =
        serde_json::from_value(yaml::read(&text).map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    let wish = NetworkState::from_json(case.desired).map_err(|e| e.to_string())?;
    let (verdict, never) = match offline::verdict(&wish, &offline::stage(&wish)) {
        Verdict::Fits(_) => ("fits".to_owned(), false),
        Verdict::Depends(fault) => (fault.to_string(), false),
        Verdict::Never(fault) => (fault.to_string(), true),
    };
    if case
        .verdict
        .is_some_and(|want| (want.as_str(), case.never) != (&verdict, never))
    {
        return Err(format!("the verdict is {verdict} ({never})"));
    }
    let profiles = match (offline::profiles(&wish), case.error) {
        (Err(fault), Some(error)) if fault.to_string() == error => return Ok(()),
        (Err(fault), _) => return Err(format!("refused: {fault}")),
        (Ok(_), Some(error)) => return Err(format!("accepted, but should be refused with: {error}")),
        (Ok(profiles), None) => profiles,
    };
    let name = |p: &netwright::profile::Profile| p.str("connection", "id").unwrap_or_default().to_owned();
    let names: Vec<String> = profiles.iter().map(name).collect();
    if case.only.is_some_and(|want| want != names) {
        return Err(format!("the files are {names:?}"));
    }
    for (id, want) in &case.profiles {
        let file = profiles.iter().find(|p| name(p) == *id);
        let file = keyfile::write(file.ok_or_else(|| format!("there is no {id}"))?);
        let has = sections(&file);
        for (section, keys) in want {
            for (key, value) in keys {
                let got = has.get(section.as_str()).and_then(|s| s.get(key.as_str()));
                if got.copied() != value.as_deref() {
                    return Err(format!("{id}: {section}.{key} is {got:?}\n{file}"));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn cases() {
    let files = common::cases("offline");
    assert!(files.len() >= 8, "only {} cases", files.len());
    let failed: Vec<String> = (files.iter())
        .filter_map(|path| check(path).err().map(|why| format!("{}: {why}", path.display())))
        .collect();
    assert!(failed.is_empty(), "{} failed\n{}", failed.len(), failed.join("\n"));
}

/// What an older NetworkManager cannot do: `gc` does not know whom it writes for.
const NEWER: [&str; 4] = [
    "invalid connection type; hsr",
    "invalid connection type; ipvlan",
    // of a name that the kernel cuts
    "interface name of software infiniband device",
    // with ns_ip6_target
    "'arp_interval' option requires 'arp_ip_target'",
];

/// What `gc` makes of every wish of the golden cases, where it makes anything, is what NetworkManager loads.
#[test]
fn networkmanager_loads_every_file() {
    if !common::may_run() {
        return;
    }
    let mut made = BTreeMap::new();
    for path in common::cases("golden") {
        let text = std::fs::read_to_string(&path).expect("a case is read");
        let case = yaml::read(&text).expect("a case is YAML");
        let Ok(wish) = NetworkState::from_json(case["desired"].clone()) else {
            continue;
        };
        let profiles = offline::profiles(&wish).unwrap_or_default();
        made.extend(profiles.iter().map(|p| (keyfile::write(p), path.display().to_string())));
    }
    println!("{} files", made.len());
    assert!(made.len() > 300, "only {} files", made.len());
    let refused = common::refused_by_nmcli(made.into_iter().map(|(text, path)| (path, text)));
    let refused: Vec<String> = (refused.into_iter())
        .filter(|why| !NEWER.iter().any(|newer| why.contains(newer)))
        .collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
