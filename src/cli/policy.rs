//! `netwright policy`: what a policy comes to on a node.

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;

use super::{apply, input, output};
use crate::capture::Captured;
use crate::observation::Observation;
use crate::yaml;

/// Flags of `netwright policy`.
#[derive(Debug, Args)]
pub struct Policy {
    /// A policy; `-` or none is stdin.
    #[arg(default_value = "-")]
    file: PathBuf,
    /// The state of the node, instead of this node's.
    #[arg(short, long)]
    current: Option<PathBuf>,
    /// What was captured before (see -o), instead of looking for it.
    #[arg(short = 'a', long)]
    captured: Option<PathBuf>,
    /// Where to write what was captured.
    #[arg(short, long)]
    output_captured: Option<PathBuf>,
    /// JSON instead of YAML, in that file too.
    #[arg(long)]
    json: bool,
}

/// Prints the desired state, filled in.
pub async fn run(args: Policy) -> anyhow::Result<()> {
    let document = input::document(&args.file)?;
    let captured = match &args.captured {
        Some(file) => Captured::from_json(yaml::read(&input::text(file)?)?)?,
        None => {
            let seen = match document.needs_node() {
                true => apply::observation(args.current.as_deref()).await?,
                false => Observation::default(),
            };
            document.captured(&seen)?.at(&Timestamp::now().to_string())
        }
    };
    let desired = document.filled(&captured)?;
    if let Some(file) = &args.output_captured {
        std::fs::write(file, output::text(&captured, args.json)?)?;
    }
    output::print(&desired, args.json)
}
