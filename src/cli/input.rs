//! What people hand in: files or stdin, YAML or JSON, state documents or whole policies.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;

use crate::error::Invalid;
use crate::state::NetworkState;
use crate::yaml;

/// Text of a file; `-` is stdin.
pub fn text(file: &Path) -> anyhow::Result<String> {
    let read = || -> std::io::Result<String> {
        if file.as_os_str() != "-" {
            return std::fs::read_to_string(file);
        }
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        Ok(text)
    };
    read().with_context(|| format!("reading {}", file.display()))
}

/// One state document of a file; `-` is stdin.
pub fn state(file: &Path) -> anyhow::Result<NetworkState> {
    Ok(NetworkState::from_json(desired_state(yaml::read(&text(file)?)?))?)
}

/// Every document of the files; of a policy its desiredState. All are read and parsed before anything is touched.
pub fn states(files: &[PathBuf]) -> anyhow::Result<Vec<NetworkState>> {
    let stdin = [PathBuf::from("-")];
    let files = if files.is_empty() { &stdin } else { files };
    let mut all = vec![];
    for file in files {
        for document in yaml::read_many(&text(file)?)? {
            all.push(NetworkState::from_json(desired_state(document))?);
        }
    }
    if all.is_empty() {
        return Err(Invalid::new("document", "there is nothing in it").into());
    }
    Ok(all)
}

fn desired_state(mut document: Value) -> Value {
    let policy = document.get("kind").and_then(Value::as_str) == Some("NodeNetworkConfigurationPolicy");
    match document.pointer_mut("/spec/desiredState") {
        Some(state) if policy => state.take(),
        _ => document,
    }
}
