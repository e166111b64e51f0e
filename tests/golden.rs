//! Every file under `tests/golden/` is a case: a node, a wish, and the plan or the error that it leads to.
//!
//! `cards` are the node's network cards, `node` is what is special about it, `given` documents are applied first, `desired` is the wish. `lines` and `steps` are what is planned
//! for it, `error` is what is said instead. Every wish is then carried out on the fake node, after which planning it again must find nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use netwright::facts::{Facts, OvsInterface, OvsPort};
use netwright::host::fake::FakeHost;
use netwright::plan::plan;
use netwright::probe::Prober;
use netwright::state::NetworkState;
use netwright::transaction::{Options, Outcome, run};
use netwright::yaml;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(default)]
    cards: Vec<String>,
    #[serde(default)]
    node: Node,
    #[serde(default)]
    given: Vec<Value>,
    desired: Value,
    #[serde(default)]
    lines: Option<Vec<String>>,
    #[serde(default)]
    steps: Option<Vec<Vec<String>>>,
    #[serde(default)]
    error: Option<String>,
}

/// What is special about a node.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Node {
    /// Version of NetworkManager.
    nm: Option<String>,
    /// The database of Open vSwitch does not answer.
    no_ovs: bool,
    /// NetworkManager has no plug-in for it.
    no_ovs_plugin: bool,
    /// Ports that somebody else put into bridges of Open vSwitch, by bridge, once `given` is there; a bridge that is not there is made.
    foreign_ports: BTreeMap<String, Vec<String>>,
    /// Keys of the global row of Open vSwitch.
    external_ids: BTreeMap<String, String>,
}

impl Node {
    fn before(&self, facts: &mut Facts) {
        facts.nm_version = self.nm.clone().unwrap_or_else(|| facts.nm_version.clone());
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

async fn apply(host: &FakeHost, document: &Value) -> Outcome {
    let state = NetworkState::from_json(document.clone()).expect("a given document parses");
    run(host, &Prober::none(), &state, &Options::default()).await.outcome
}

async fn check(path: &Path) -> Result<(), String> {
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
    let cards: Vec<&str> = case.cards.iter().map(String::as_str).collect();
    let host = FakeHost::with_cards(&cards);
    host.meddle(|facts| case.node.before(facts));
    for document in &case.given {
        let outcome = apply(&host, document).await;
        if outcome != Outcome::Applied {
            return Err(format!("a given document was not applied: {outcome:?}"));
        }
    }
    host.meddle(|facts| case.node.after(facts));
    let got = NetworkState::from_json(case.desired.clone()).and_then(|wish| plan(&wish, &host.now()));
    let plan_ = match (got, &case.error) {
        (Err(fault), Some(error)) if fault.to_string() == *error => return Ok(()),
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
    {
        return Err(format!(
            "planned\nlines: {}\nsteps: {}",
            serde_json::json!(plan_.lines),
            serde_json::json!(steps)
        ));
    }
    let outcome = apply(&host, &case.desired).await;
    if !matches!(outcome, Outcome::Applied | Outcome::Unchanged) {
        return Err(format!("not applied: {outcome:?}"));
    }
    match apply(&host, &case.desired).await {
        Outcome::Unchanged => Ok(()),
        other => {
            let again = plan(
                &NetworkState::from_json(case.desired).expect("parsed before"),
                &host.now(),
            );
            Err(format!(
                "the second time it is {other:?}: {:#?}",
                again.map(|p| (p.lines, p.waves))
            ))
        }
    }
}

fn cases(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("tests/golden is there").flatten() {
        match entry.path() {
            path if path.is_dir() => cases(&path, out),
            path if path.extension().is_some_and(|e| e == "yaml") => out.push(path),
            _ => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn golden() {
    // GOLDEN=ovs/ runs only cases with that in their path
    let only = std::env::var("GOLDEN").unwrap_or_default();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files = vec![];
    cases(&root, &mut files);
    files.sort();
    assert!(
        files.len() >= 40,
        "only {} cases found under {}",
        files.len(),
        root.display()
    );
    let mut failed = vec![];
    for path in files.iter().filter(|p| p.display().to_string().contains(&only)) {
        if let Err(why) = check(path).await {
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
}
