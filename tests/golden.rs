//! Every file under `tests/golden/` is a case: a node, a wish, and the plan or the error that it leads to.
//!
//! `cards` are the node's network cards (`ib…` of InfiniBand), `nm` is NetworkManager's version (1.42.4), `given` documents are applied first,
//! `desired` is the wish. `lines` and `steps` are what is planned for it, `error` is what is said instead; `profiles` is what NetworkManager
//! must have stored afterwards (at least), `shows` what the node must show. Every wish is then carried out on the fake node, after which planning it again must find nothing.

use std::path::{Path, PathBuf};

use netwright::host::fake::FakeHost;
use netwright::plan::plan;
use netwright::probe::Prober;
use netwright::profile;
use netwright::state::{NetworkState, tree};
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
    nm: Option<String>,
    #[serde(default)]
    given: Vec<Value>,
    desired: Value,
    #[serde(default)]
    lines: Option<Vec<String>>,
    #[serde(default)]
    steps: Option<Vec<Vec<String>>>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    profiles: Value,
    #[serde(default)]
    shows: Value,
}

/// A setting's value as plain JSON; bytes as text.
fn plain(value: &profile::Value) -> Value {
    use profile::Value as V;
    let dict = |d: &profile::Dict| d.iter().map(|(k, v)| (k.clone(), plain(v))).collect::<Value>();
    match value {
        V::Bool(v) => (*v).into(),
        V::Byte(v) => (*v).into(),
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
    if let Some(version) = &case.nm {
        host.meddle(|facts| facts.nm_version.clone_from(version));
    }
    for document in &case.given {
        let outcome = apply(&host, document).await;
        if outcome != Outcome::Applied {
            return Err(format!("a given document was not applied: {outcome:?}"));
        }
    }
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
    let lacking = [
        lacking_in_profiles(&case.profiles, &host),
        lacking_in_document(&case.shows, &host),
    ]
    .concat();
    if !lacking.is_empty() {
        return Err(format!("{lacking:#?}"));
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
    for path in &files {
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
