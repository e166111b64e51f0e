//! What people hand in: files or stdin, YAML or JSON, state documents or whole policies.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;

use crate::capture::{Captured, Node, Policy};
use crate::error::{ErrorKind, Invalid};
use crate::observation::Observation;
use crate::state::NetworkState;
use crate::yaml;

/// A text that cannot be read as a document.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub Invalid);

/// A fault of a text, or of a document that makes sense to read but not to do.
pub fn unreadable(fault: Invalid) -> anyhow::Error {
    match fault.kind {
        ErrorKind::InvalidArgument => Unreadable(fault).into(),
        _ => fault.into(),
    }
}

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

/// A state or a policy. What can be told wrong without a node has been told.
pub struct Document(Policy);

impl Document {
    /// Reads a document.
    pub fn from_json(json: Value) -> Result<Self, Invalid> {
        let document = Document(Policy::from_json(json)?);
        document.0.check(&node())?;
        if !document.needs_node() {
            document.desired(&Observation::default())?;
        }
        Ok(document)
    }

    /// It has captures that look at the node.
    pub fn needs_node(&self) -> bool {
        !self.0.capture.is_empty() && self.0.current.is_none()
    }

    /// What its captures find on a node that looks like this. They never see secrets: the placeholder for one means the one that is there.
    pub fn captured(&self, seen: &Observation) -> Result<Captured, Invalid> {
        let current = match self.needs_node() {
            true => {
                let mut state = seen.state.clone();
                state.hide_secrets();
                state.to_json()
            }
            false => Value::Null,
        };
        self.0.evaluate(&current, &node())
    }

    /// What it wants, with what was captured.
    pub fn filled(&self, captured: &Captured) -> Result<NetworkState, Invalid> {
        let json = self.0.render_with(captured, &node())?;
        NetworkState::from_json(json).map_err(|e| self.0.place(e))
    }

    /// What it wants of a node that looks like this.
    pub fn desired(&self, seen: &Observation) -> Result<NetworkState, Invalid> {
        self.filled(&self.captured(seen)?)
    }
}

/// This machine; labels and annotations are known in a cluster only.
fn node() -> Node {
    Node {
        name: super::hostname(),
        ..Node::default()
    }
}

/// The document of a file; `-` is stdin.
pub fn document(file: &Path) -> anyhow::Result<Document> {
    yaml::read(&text(file)?)
        .and_then(Document::from_json)
        .map_err(unreadable)
}

/// One state of a file, or of a policy its desiredState; `-` is stdin.
pub fn state(file: &Path) -> anyhow::Result<NetworkState> {
    let document = document(file)?;
    if document.needs_node() {
        let reason = "captures look at a node, and this command does not: `plan`, `apply` and `format` do";
        return Err(Invalid::new("capture", reason).into());
    }
    Ok(document.desired(&Observation::default())?)
}

/// Every document of the files. All are read and parsed before anything is touched.
pub fn documents(files: &[PathBuf]) -> anyhow::Result<Vec<Document>> {
    let stdin = [PathBuf::from("-")];
    let files = if files.is_empty() { &stdin } else { files };
    let mut all = vec![];
    for file in files {
        for json in yaml::read_many(&text(file)?).map_err(unreadable)? {
            all.push(Document::from_json(json).map_err(unreadable)?);
        }
    }
    if all.is_empty() {
        return Err(unreadable(Invalid::new("document", "there is nothing in it")));
    }
    Ok(all)
}
