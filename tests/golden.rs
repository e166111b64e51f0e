//! Every file under `tests/golden/` is a case: a node, a wish, and the plan or the error that it leads to.
//!
//! `cards` are the node's network cards (a name, `ib…` of InfiniBand, or a map with what there is to one), `node` what else there is to it; `given`
//! documents are applied first; `before` and `meanwhile` is what others did on the node before and after those; `desired` is the wish, planned with
//! `options`. `lines`, `steps` and `warnings` are what is planned for it, `error` (and its `kind`, else InvalidArgument) is what is said instead;
//! `keys` (profile → setting.key → value) and `profiles` (profile → setting → key → value) is what NetworkManager must have stored afterwards,
//! `files` what files hold (null: not there), `shows` (interface → part of its entry) what the node then shows; `profile` (interface → setting.key →
//! value, null for none) and `kernel` what its profile, the kernel and the resolver have.
//! Every wish is then carried out on the fake node, after which planning it again must find nothing.

mod common;
mod golden_others;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use golden_others::{Kernel, Others, Profiles};
use netwright::facts::{Address, Device, Ethtool, Facts, Feature, Link, Numbers, OvsInterface, OvsPort, Sriov};
use netwright::host::fake::FakeHost;
use netwright::host::kept::{Before, Written};
use netwright::host::{Host, restore};
use netwright::nm::keyfile;
use netwright::observation::Observation;
use netwright::plan::revert::revert;
use netwright::plan::{self, plan_with};
use netwright::probe::Prober;
use netwright::profile::{self, Dict};
use netwright::state::{NetworkState, tree};
use netwright::step::Step;
use netwright::transaction::{Options, Outcome, run};
use netwright::yaml;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(default)]
    cards: Vec<Card>,
    #[serde(default)]
    node: Node,
    #[serde(default)]
    before: Others,
    #[serde(default)]
    given: Vec<Value>,
    #[serde(default)]
    meanwhile: Others,
    #[serde(default)]
    options: Choices,
    desired: Value,
    #[serde(default)]
    lines: Option<Vec<String>>,
    #[serde(default)]
    steps: Option<Vec<Vec<String>>>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    warnings: Option<Vec<String>>,
    #[serde(default)]
    keys: BTreeMap<String, BTreeMap<String, Option<String>>>,
    #[serde(default)]
    files: BTreeMap<String, Option<String>>,
    #[serde(default)]
    profiles: Value,
    #[serde(default)]
    shows: Value,
    #[serde(default)]
    profile: Profiles,
    #[serde(default)]
    kernel: Kernel,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Choices {
    memory_only: bool,
    override_iface: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Card {
    Plain(String),
    Equipped(Box<Equipped>),
}

impl Card {
    fn name(&self) -> &str {
        match self {
            Card::Plain(name) => name,
            Card::Equipped(card) => &card.name,
        }
    }
}

/// A card that can do more than the plain one.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Equipped {
    name: String,
    pci: Option<String>,
    mac: Option<String>,
    permanent_mac: Option<String>,
    mtu: Option<u32>,
    min_mtu: Option<u32>,
    max_mtu: Option<u32>,
    alt_names: Vec<String>,
    /// Features: true, false, or fixed-on, fixed-off.
    features: BTreeMap<String, Value>,
    pause: BTreeMap<String, u32>,
    coalesce: BTreeMap<String, u32>,
    ring: BTreeMap<String, u32>,
    channels: BTreeMap<String, u32>,
    fec: BTreeMap<String, u32>,
    auto_negotiation: Option<bool>,
    speed: Option<u32>,
    duplex: Option<String>,
    /// As many virtual functions as there may be.
    vfs: Option<u32>,
    addresses: Vec<Given>,
    forwarding: Option<bool>,
}

/// An address that was there before.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Given {
    net: String,
    /// Seconds; left out it is for ever.
    life: Option<u32>,
    protocol: u8,
}

#[derive(Deserialize, Default)]
/// What is special about a node.
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Node {
    /// NetworkManager's version.
    nm: Option<String>,
    mptcp: bool,
    running: Option<String>,
    config: Option<String>,
    /// Switches that are heard on LLDP, by card.
    lldp: BTreeMap<String, String>,
    files: BTreeMap<String, String>,
    /// The database of Open vSwitch does not answer.
    no_ovs: bool,
    /// NetworkManager has no plug-in for it.
    no_ovs_plugin: bool,
    /// Ports that somebody else put into bridges of Open vSwitch, by bridge, once `given` is there; a bridge that is not there is made.
    foreign_ports: BTreeMap<String, Vec<String>>,
    /// Keys of the global row of Open vSwitch.
    external_ids: BTreeMap<String, String>,
}

fn numbers(given: &BTreeMap<String, u32>) -> Numbers {
    given.iter().map(|(word, n)| (&*word.clone().leak(), *n)).collect()
}

fn equip(card: &Equipped, link: &mut Link) {
    let set = |slot: &mut Option<String>, given: &Option<String>| *slot = given.clone().or(slot.take());
    set(&mut link.pci_address, &card.pci);
    set(&mut link.mac, &card.mac);
    set(&mut link.permanent_mac, &card.permanent_mac);
    set(&mut link.duplex, &card.duplex);
    link.speed = card.speed.or(link.speed);
    link.mtu = card.mtu.or(link.mtu);
    (link.min_mtu, link.max_mtu) = (card.min_mtu, card.max_mtu);
    link.alt_names.clone_from(&card.alt_names);
    link.ipv4_forwarding = card.forwarding;
    let feature = |word: &Value| Feature {
        on: *word == true || *word == "fixed-on",
        changeable: word.is_boolean(),
    };
    link.ethtool = Ethtool {
        features: card
            .features
            .iter()
            .map(|(name, word)| (name.as_str().into(), feature(word)))
            .collect(),
        auto_negotiation: card.auto_negotiation,
        pause: numbers(&card.pause),
        coalesce: numbers(&card.coalesce),
        ring: numbers(&card.ring),
        channels: numbers(&card.channels),
        fec: numbers(&card.fec),
    };
    link.sriov = card.vfs.map(|most| Sriov {
        most,
        autoprobe: Some(true),
        ..Sriov::default()
    });
}

fn furnish(case: &Case, facts: &mut Facts) {
    for card in &case.cards {
        let Card::Equipped(card) = card else { continue };
        let Some(link) = facts.links.iter_mut().find(|l| l.name == card.name) else {
            continue;
        };
        equip(card, link);
        let link = link.index;
        facts.addresses.extend(card.addresses.iter().map(|a| {
            let net: ipnet::IpNet = a.net.parse().expect("an address of a card");
            Address {
                link,
                ip: net.addr(),
                prefix: net.prefix_len(),
                dynamic: a.life.is_some(),
                valid: a.life,
                preferred: a.life,
                protocol: a.protocol,
                duplicate: false,
            }
        }));
    }
    let node = &case.node;
    if let Some(version) = &node.nm {
        facts.nm_version.clone_from(version);
    }
    facts.mptcp_enabled = node.mptcp;
    facts.hostname.running.clone_from(&node.running);
    facts.hostname.config.clone_from(&node.config);
    facts.files.extend(node.files.clone());
    for device in &mut facts.devices {
        let heard = node.lldp.get(&device.interface).cloned();
        device.lldp = heard
            .map(|name| Dict::from([("system-name".to_owned(), name.into())]))
            .into_iter()
            .collect();
    }
}

/// What the node holds and shows after the wish.
fn outcome_of(case: &Case, seen: &Observation) -> Result<(), String> {
    for (name, keys) in &case.keys {
        let profile = seen
            .facts
            .profiles
            .iter()
            .find(|p| p.profile.str("connection", "id") == Some(name));
        let profile = profile.ok_or_else(|| format!("there is no profile {name}"))?;
        for (path, want) in keys {
            let (setting, key) = path.split_once('.').ok_or("a key is setting.key")?;
            let got = profile.profile.get(setting, key).map(|v| format!("{v:?}"));
            if got != *want {
                return Err(format!("{name}: {path} is {got:?}, not {want:?}"));
            }
        }
    }
    for (path, want) in &case.files {
        let got = seen.facts.files.get(path);
        if got != want.as_ref() {
            return Err(format!("{path} holds {got:?}"));
        }
    }
    Ok(())
}

/// A setting's value as plain JSON; bytes as text.
fn plain(value: &profile::Value) -> Value {
    use profile::Value as V;
    let dict = |d: &profile::Dict| d.iter().map(|(k, v)| (k.clone(), plain(v))).collect::<Value>();
    match value {
        V::Bool(v) => (*v).into(),
        V::Byte(v) => (*v).into(),
        V::U16(v) => (*v).into(),
        V::I32(v) => (*v).into(),
        V::U32(v) => (*v).into(),
        V::I64(v) => (*v).into(),
        V::U64(v) => (*v).into(),
        V::Str(v) => v.as_str().into(),
        V::Bytes(v) => String::from_utf8_lossy(v).into_owned().into(),
        V::Strs(v) => v.clone().into(),
        V::U32s(v) => v.clone().into(),
        V::StrMap(v) => v.iter().map(|(k, v)| (k.clone(), Value::from(v.as_str()))).collect(),
        V::Dict(v) => dict(v),
        V::Dicts(v) => v.iter().map(dict).collect(),
    }
}

fn lacking(want: &Value, got: &Value) -> Vec<tree::Missing> {
    let mut out = vec![];
    if !want.is_null() {
        tree::missing(want, got, "", &mut out);
    }
    out
}

/// What of `want` (profile by name → setting → key → value, null for none) the stored profiles lack.
fn lacking_in_profiles(want: &Value, host: &FakeHost) -> Vec<tree::Missing> {
    let stored: Value = (host.now().facts.profiles.iter())
        .map(|p| {
            let settings = p.profile.settings.iter();
            let settings = settings.map(|(s, keys)| {
                (
                    s.clone(),
                    keys.iter().map(|(k, v)| (k.clone(), plain(v))).collect::<Value>(),
                )
            });
            let id = p.profile.str("connection", "id").unwrap_or_default().to_owned();
            (id, settings.collect::<Value>())
        })
        .collect();
    lacking(want, &stored)
}

/// What of `want` (interface by name → its document) the node does not show. Secrets are hidden.
fn lacking_in_document(want: &Value, host: &FakeHost) -> Vec<tree::Missing> {
    let mut state = host.now().state;
    state.hide_secrets();
    let shown: Value = (state.interfaces.iter())
        .map(|i| (i.name().to_owned(), Value::Object(i.tree())))
        .collect();
    lacking(want, &shown)
}

impl Node {
    fn before(&self, facts: &mut Facts) {
        if self.no_ovs_plugin {
            facts.nm_capabilities.clear();
        }
        facts.ovs = facts.ovs.take().filter(|_| !self.no_ovs);
        if let Some(ovs) = &mut facts.ovs {
            ovs.ids.external_ids.clone_from(&self.external_ids);
        }
    }

    fn after(&self, facts: &mut Facts) {
        let Some(ovs) = &mut facts.ovs else { return };
        for (bridge, ports) in &self.foreign_ports {
            let row = ovs.bridges.entry(bridge.clone()).or_default();
            row.ports.extend(ports.iter().cloned());
            for port in ports {
                let row = OvsPort {
                    interfaces: vec![port.clone()],
                    ..OvsPort::default()
                };
                ovs.ports.insert(port.clone(), row);
                ovs.interfaces.insert(port.clone(), OvsInterface::default());
            }
        }
        ovs.tell_members();
    }
}

impl Case {
    /// The node before the wish.
    async fn stage(&self) -> Result<FakeHost, String> {
        let cards: Vec<&str> = self.cards.iter().map(Card::name).collect();
        let host = FakeHost::with_cards(&cards);
        host.meddle(|facts| furnish(self, facts));
        host.meddle(|facts| self.node.before(facts));
        self.before.set_up(&host);
        for document in &self.given {
            let outcome = apply(&host, document, &Choices::default()).await;
            if outcome != Outcome::Applied {
                return Err(format!("a given document was not applied: {outcome:?}"));
            }
        }
        host.meddle(|facts| self.node.after(facts));
        self.meanwhile.set_up(&host);
        Ok(host)
    }
}

async fn apply(host: &FakeHost, document: &Value, choices: &Choices) -> Outcome {
    let state = NetworkState::from_json(document.clone()).expect("a given document parses");
    let options = Options {
        memory_only: choices.memory_only,
        override_iface: choices.override_iface,
        ..Options::default()
    };
    run(host, &Prober::none(), &state, &options).await.outcome
}

/// Files of profiles, each with the case that it came from.
type Files = BTreeMap<String, PathBuf>;

/// Runs a case; adds the profiles that it stores, where the node's NetworkManager is no newer than `installed`.
async fn check(path: &Path, installed: &str, files: &mut Files) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let case: Case =
        serde_json::from_value(yaml::read(&text).map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    // what is printed reads back as the same
    if let Ok(wish) = NetworkState::from_json(case.desired.clone()) {
        let printed = yaml::read(&yaml::write(&wish)).map_err(|e| e.to_string())?;
        let again = NetworkState::from_json(printed).map_err(|e| format!("its print is refused: {e}"))?;
        if again != wish {
            return Err(format!("its print reads as something else:\n{}", yaml::write(&wish)));
        }
    }
    let host = case.stage().await?;
    let choices = plan::Options {
        memory_only: case.options.memory_only,
        override_iface: case.options.override_iface,
    };
    let got = NetworkState::from_json(case.desired.clone()).and_then(|wish| plan_with(&wish, &host.now(), choices));
    let plan_ = match (got, &case.error) {
        (Err(fault), Some(error)) if fault.to_string() == *error => {
            let kind = fault.kind.to_string();
            return match case.kind.as_deref().unwrap_or("InvalidArgument") == kind {
                true => Ok(()),
                false => Err(format!("refused as {kind}")),
            };
        }
        (Err(fault), _) => return Err(format!("refused: {fault}")),
        (Ok(_), Some(error)) => {
            return Err(format!("accepted, but should be refused with: {error}"));
        }
        (Ok(plan), None) => plan,
    };
    let steps: Vec<Vec<String>> = plan_
        .waves
        .iter()
        .map(|w| w.iter().map(ToString::to_string).collect())
        .collect();
    if case.lines.as_ref().is_some_and(|want| *want != plan_.lines)
        || case.steps.as_ref().is_some_and(|want| *want != steps)
        || case.warnings.as_ref().is_some_and(|want| *want != plan_.warnings)
    {
        return Err(format!(
            "planned\nlines: {}\nsteps: {}\nwarnings: {}",
            serde_json::json!(plan_.lines),
            serde_json::json!(steps),
            serde_json::json!(plan_.warnings)
        ));
    }
    let before = host.now();
    let here = Facts {
        nm_version: installed.to_owned(),
        ..Facts::default()
    };
    if here.nm_at_least(&before.facts.nm_version) {
        let saved = plan_.waves.iter().flatten().filter_map(|step| match step {
            Step::Save { profile, .. } => Some((keyfile::write(profile), path.to_owned())),
            _ => None,
        });
        files.extend(saved);
    }
    let outcome = apply(&host, &case.desired, &case.options).await;
    if !matches!(outcome, Outcome::Applied | Outcome::Unchanged) {
        return Err(format!("not applied: {outcome:?}"));
    }
    outcome_of(&case, &host.now())?;
    case.profile.check(&host.now())?;
    case.kernel.check(&host.now())?;
    let lacking = [
        lacking_in_profiles(&case.profiles, &host),
        lacking_in_document(&case.shows, &host),
    ]
    .concat();
    if !lacking.is_empty() {
        return Err(format!("{lacking:#?}"));
    }
    match apply(&host, &case.desired, &case.options).await {
        Outcome::Unchanged => {
            if !case.options.memory_only && !half_done(path) {
                shown_is_as_it_is(&host)?;
            }
            if plan_.more {
                return Ok(());
            }
            is_reverted(&case, path).await?;
            is_led_back(&host, &before, &plan_.waves).await
        }
        other => {
            let wish = NetworkState::from_json(case.desired).expect("parsed before");
            let again = plan_with(&wish, &host.now(), choices);
            Err(format!(
                "the second time it is {other:?}: {:#?}",
                again.map(|p| (p.lines, p.waves))
            ))
        }
    }
}

/// The inverse of the wish, as it is kept in an enactment, leads back to what was.
async fn is_reverted(case: &Case, path: &Path) -> Result<(), String> {
    // a bridge that is only a word in a mapping, a port that only ovs-vsctl knows, attributes that a route keeps where they are not named,
    // a profile of many interfaces
    let beyond = [
        "ovs/ovn-last-mapping-removed.yaml",
        "ovs/ovn-mapping-changed.yaml",
        "ovs/ovn-mapping-removed.yaml",
        "ovs/ports-of-others-are-kept.yaml",
        "route/attribute-added-to-the-route-there-is.yaml",
        "route/what-the-document-cannot-say-stays.yaml",
        "state/shared-profile-is-cloned.yaml",
    ];
    if beyond.iter().any(|c| path.ends_with(c)) || case.options.memory_only || case.options.override_iface {
        return Ok(());
    }
    let host = case.stage().await?;
    let before = host.now();
    let wish = NetworkState::from_json(case.desired.clone()).expect("parsed before");
    let back = revert(&wish, &before).map_err(|e| format!("it has no inverse: {e}"))?;
    let kept = yaml::write(&back);
    let back = yaml::read(&kept).map_err(|e| e.to_string())?;
    apply(&host, &case.desired, &case.options).await;
    match apply(&host, &back, &Choices::default()).await {
        Outcome::Applied | Outcome::Unchanged => {}
        other => return Err(format!("its inverse is not applied: {other:?}\n{kept}")),
    }
    let lacking = lacking(&common::shape(&before.state), &common::shape(&host.now().state));
    match lacking.is_empty() {
        true => Ok(()),
        false => Err(format!("its inverse does not lead back: {lacking:?}\n{kept}")),
    }
}

/// What is kept of the node before a change and of the change leads back, where nobody is left who saw it and the checkpoint is lost.
async fn is_led_back(host: &FakeHost, before: &Observation, change: &[Vec<Step>]) -> Result<(), String> {
    let kept = serde_json::to_string(&Before::of(before)).map_err(|e| e.to_string())?;
    let kept: Before = serde_json::from_str(&kept).map_err(|e| e.to_string())?;
    let kept = kept.observation().map_err(|e| e.to_string())?;
    if kept.state.to_json() != before.state.to_json() {
        return Err("what is kept of the node is something else".to_owned());
    }
    let mut written = Written::default();
    for wave in change {
        written.note(wave);
    }
    let now = host.now();
    let then = written.before(kept, &now.facts);
    for wave in restore::waves(&then, &now, true) {
        host.execute(&wave).await.map_err(|e| e.to_string())?;
    }
    let now = host.now();
    let profiles = |seen: &Observation| -> BTreeMap<String, profile::Profile> {
        let own = seen.facts.profiles.iter().filter(|p| p.flags & 0xe == 0);
        own.map(|p| (p.uuid().to_owned(), p.profile.clone())).collect()
    };
    let (was, is) = (profiles(before), profiles(&now));
    let same = |uuid: &&String| match (was.get(*uuid), is.get(*uuid)) {
        (Some(was), Some(is)) => plan::profiles::differing_keys(was, is).is_empty(),
        _ => false,
    };
    if let Some(uuid) = was.keys().chain(is.keys()).find(|uuid| !same(uuid)) {
        let (was, is) = (was.get(uuid), is.get(uuid));
        return Err(format!("after a crash the profile is\n{is:#?}\nnot\n{was:#?}"));
    }
    let up = before.facts.devices.iter().filter(|d| d.state == 100 && !d.external());
    for device in up {
        let uuid = |d: &Device| d.active.as_ref().map(|a| a.uuid.clone());
        let is = now.facts.device_of(&device.id()).and_then(uuid);
        if is != uuid(device) {
            let name = &device.interface;
            return Err(format!(
                "after a crash {name} has {is:?} active, not {:?}",
                uuid(device)
            ));
        }
    }
    Ok(())
}

/// The fake node does not do all that a kernel does: a port follows neither its bridge's new default PVID nor a profile that is no longer
/// in force, and what ovs-vsctl alone knows has no link.
fn half_done(case: &Path) -> bool {
    let cases = [
        "bridge/default-pvid-changed.yaml",
        "implied/freed-port-that-is-down-stays-down.yaml",
        "ovs/ports-of-others-are-kept.yaml",
    ];
    cases.iter().any(|c| case.ends_with(c))
}

/// What the node shows, given back as a wish, changes nothing and is not refused.
fn shown_is_as_it_is(host: &FakeHost) -> Result<(), String> {
    let seen = host.now();
    let mut shown = seen.state.clone();
    shown.hide_secrets();
    let again = yaml::read(&yaml::write(&shown)).and_then(NetworkState::from_json);
    let again = again.map_err(|e| format!("what it shows is refused: {e}"))?;
    let plan = plan::plan(&again, &seen).map_err(|e| format!("what it shows cannot be applied: {e}"))?;
    // what is named is kept from now on: interfaces, names and rules that others made
    let kept = [
        ": kept by a profile of its own from now on",
        ".link",
        ": profile settings ipv4.routing-rules",
    ];
    let kept = |l: &&String| !kept.iter().any(|k| l.ends_with(k));
    let rest: Vec<&String> = plan.lines.iter().filter(kept).collect();
    match rest.is_empty() {
        true => Ok(()),
        false => Err(format!("what it shows is not as it is: {rest:#?}")),
    }
}

/// Runs all cases whose path holds `GOLDEN` (`ovs/`), gives the files that they store.
async fn run_all(installed: &str) -> Files {
    let only = std::env::var("GOLDEN").unwrap_or_default();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let files = common::cases("golden");
    assert!(
        files.len() >= 40,
        "only {} cases found under {}",
        files.len(),
        root.display()
    );
    let (mut failed, mut stored) = (vec![], Files::new());
    for path in files.iter().filter(|p| p.display().to_string().contains(&only)) {
        if let Err(why) = check(path, installed, &mut stored).await {
            failed.push(format!("{}: {why}", path.strip_prefix(&root).unwrap_or(path).display()));
        }
    }
    assert!(
        failed.is_empty(),
        "{} of {} cases failed\n{}",
        failed.len(),
        files.len(),
        failed.join("\n")
    );
    stored
}

#[tokio::test(start_paused = true)]
async fn golden() {
    run_all("0").await;
}

/// The fake node stores what it is given; NetworkManager looks at it first.
#[tokio::test(start_paused = true)]
async fn networkmanager_takes_every_profile() {
    if !common::may_run() {
        return;
    }
    let installed = common::must(Command::new("nmcli").arg("--version"));
    let installed = installed.split_whitespace().last().expect("a version");
    let files = run_all(installed).await;
    println!("{} profiles, NetworkManager {installed}", files.len());
    let chosen = std::env::var_os("GOLDEN").is_some();
    assert!(chosen || files.len() > 300, "only {} profiles", files.len());
    let refused = common::refused_by_nmcli(files.into_iter().map(|(text, path)| (path.display().to_string(), text)));
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
