//! Commands that work on documents alone: `format`, `validate`, `gd`, `gr`, `gc`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::{apply, input, output};
use crate::nm::keyfile;
use crate::observation::Observation;
use crate::plan::offline::{self, Verdict};
use crate::plan::{self, diff, revert};
use crate::yaml;

/// `netwright format`: reads a document and prints it in the usual order. What captures look for is filled in from this node.
pub async fn format(file: &Path) -> anyhow::Result<()> {
    let document = input::document(file)?;
    let seen = match document.needs_node() {
        true => apply::observation(None).await?,
        false => Observation::default(),
    };
    output::print(&document.desired(&seen)?, false)
}

/// Flags of `netwright validate`.
#[derive(Debug, Args)]
pub struct Validate {
    /// A state or a policy; `-` or none is stdin.
    file: Option<PathBuf>,
    /// The state of the node that it is for. Without it, only what no node takes is an error.
    #[arg(short, long)]
    current: Option<PathBuf>,
}

/// Prints the document if a plan can be made for it.
pub fn validate(args: &Validate) -> anyhow::Result<()> {
    let file = args.file.as_deref().unwrap_or(Path::new("-"));
    let text = input::text(file)?;
    let document = yaml::read(&text)
        .and_then(input::Document::from_json)
        .map_err(input::unreadable)?;
    match &args.current {
        Some(current) => {
            let seen = Observation::from_document(&input::state(current)?);
            plan::plan(&document.desired(&seen)?, &seen)?;
        }
        // what captures find on a node that is not known cannot be wrong
        None if document.needs_node() => {}
        None => {
            let desired = document.desired(&Observation::default())?;
            match offline::verdict(&desired, &offline::stage(&desired)) {
                Verdict::Fits(checked) => checked.warnings.iter().for_each(|w| tracing::warn!("{w}")),
                Verdict::Depends(fault) => tracing::warn!("{fault} (unless the node makes up for it)"),
                Verdict::Never(fault) => return Err(fault.into()),
            }
        }
    }
    print!("{text}");
    Ok(())
}

/// `netwright gd`: the smallest document that leads from one state to another.
pub fn differences(new: &Path, old: &Path) -> anyhow::Result<()> {
    output::print(&diff::differences(&input::state(new)?, &input::state(old)?)?, false)
}

/// Flags of `netwright gr`.
#[derive(Debug, Args)]
pub struct Revert {
    /// What is to be applied.
    file: PathBuf,
    /// The state before, instead of this node's.
    #[arg(short, long)]
    current: Option<PathBuf>,
    /// JSON instead of YAML.
    #[arg(long)]
    json: bool,
}

/// Prints what undoes a document.
pub async fn revert(args: &Revert) -> anyhow::Result<()> {
    let document = input::document(&args.file)?;
    let seen = apply::observation(args.current.as_deref()).await?;
    output::print(&revert::revert(&document.desired(&seen)?, &seen)?, args.json)
}

/// `netwright gc`: NetworkManager's files for a document, made without a daemon.
pub fn configurations(file: &Path) -> anyhow::Result<()> {
    let profiles = offline::profiles(&input::state(file)?)?;
    let files: Vec<Value> = profiles
        .iter()
        .map(|p| {
            let id = p.str("connection", "id").unwrap_or_default();
            json!([format!("{id}.nmconnection"), keyfile::write(p)])
        })
        .collect();
    output::print(&json!({ "NetworkManager": files }), false)
}
