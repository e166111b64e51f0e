//! `netwright edit`: the configuration in an editor, applied when it is closed.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::apply::{self, How};
use super::input::unreadable;
use super::show;
use crate::journal::Lock;
use crate::log::remark;
use crate::state::NetworkState;
use crate::yaml;

/// Flags of `netwright edit`.
#[derive(Debug, Args)]
pub struct Edit {
    /// Only this interface.
    interface: Option<String>,
    #[command(flatten)]
    how: How,
}

/// A file for our eyes only, gone when the value is.
struct Scratch(PathBuf);

impl Scratch {
    fn new(text: &str) -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("netwright-edit-{}.yaml", std::process::id()));
        let scratch = Scratch(path);
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&scratch.0)?;
        file.write_all(text.as_bytes())?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Opens the editor again with the fault on top until the text can be read or is left as it was.
pub async fn run(args: Edit) -> anyhow::Result<ExitCode> {
    let mut state = show::current(false).await?.running_config();
    state.hide_secrets();
    if let Some(name) = &args.interface {
        state = state.only(name);
        anyhow::ensure!(!state.interfaces.is_empty(), "this node has no interface '{name}'");
    }
    let before = yaml::write(&state);
    let scratch = Scratch::new(&before)?;
    let desired = loop {
        open_editor(&scratch.0)?;
        let text = fs::read_to_string(&scratch.0)?;
        if text == before {
            remark!("nothing was edited");
            return Ok(ExitCode::SUCCESS);
        }
        match yaml::read(&text).and_then(NetworkState::from_json) {
            Ok(desired) => break desired,
            Err(fault) if again(&fault.to_string())? => {}
            Err(fault) => return Err(unreadable(fault)),
        }
    };
    let _lock = Lock::take(&args.how.state_dir)?;
    apply::one(&desired, &args.how).await?;
    Ok(ExitCode::SUCCESS)
}

fn open_editor(file: &std::path::Path) -> anyhow::Result<()> {
    let named = ["VISUAL", "EDITOR"].iter().find_map(|v| std::env::var(v).ok());
    let editor = named
        .filter(|e| !e.trim().is_empty())
        .unwrap_or_else(|| "vi".to_owned());
    // an editor may be given with flags
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or("vi");
    let status = std::process::Command::new(program)
        .args(words)
        .arg(file)
        .status()
        .with_context(|| format!("starting the editor {editor}"))?;
    anyhow::ensure!(status.success(), "the editor {editor} ended with {status}");
    Ok(())
}

fn again(fault: &str) -> anyhow::Result<bool> {
    eprint!("{fault}\nedit again? [Y/n] ");
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer)?;
    Ok(read > 0 && !answer.trim().to_ascii_lowercase().starts_with('n'))
}
