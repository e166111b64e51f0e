//! `netwright service`: at boot, applies what lies in a folder, each file once.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use tracing::{error, info};

use super::apply::{self, How};
use super::input;
use crate::journal::Lock;

/// Flags of `netwright service`.
#[derive(Debug, Args)]
pub struct Service {
    /// Where the documents are.
    #[arg(short, long, default_value = "/etc/nmstate")]
    config: PathBuf,
    #[command(flatten)]
    how: How,
}

/// `nmstate.conf`, section `[service]`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Conf {
    /// Leave the document and keep a copy of what was applied; a changed document is applied again.
    keep_state_file_after_apply: bool,
    /// Interfaces of the document lose every setting that it does not name.
    override_iface: bool,
}

/// Reads the two switches of a TOML file that has no others.
fn conf(text: &str) -> anyhow::Result<Conf> {
    let mut conf = Conf::default();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some((key, value)) = line.split_once('=') else {
            anyhow::ensure!(
                line.is_empty() || line == "[service]",
                "nmstate.conf line {number}: '{line}' is not understood"
            );
            continue;
        };
        let on = match value.trim() {
            "true" => true,
            "false" => false,
            other => anyhow::bail!("nmstate.conf line {number}: {other} is neither true nor false"),
        };
        match key.trim() {
            "keep_state_file_after_apply" => conf.keep_state_file_after_apply = on,
            "override_iface" => conf.override_iface = on,
            other => anyhow::bail!("nmstate.conf line {number}: unknown key {other}"),
        }
    }
    Ok(conf)
}

/// Documents in the order of their paths. Two with one stem would share their `.applied`: an error that names both.
fn documents(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        other => other.with_context(|| format!("reading {}", folder.display()))?,
    };
    let mut by_stem: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    let yaml = |p: &PathBuf| p.extension().is_some_and(|e| e == "yml" || e == "yaml");
    for path in entries.flatten().map(|e| e.path()).filter(yaml) {
        if let Some(other) = by_stem.insert(path.with_extension(""), path.clone()) {
            anyhow::bail!(
                "{} and {} differ only in their ending; remove one",
                other.display(),
                path.display()
            );
        }
    }
    Ok(by_stem.into_values().collect())
}

/// Applies every document that was not applied yet. One that fails is logged and stays for the next start; the others are applied all the same.
pub async fn run(args: Service) -> anyhow::Result<()> {
    let conf = match fs::read_to_string(args.config.join("nmstate.conf")) {
        Ok(text) => conf(&text)?,
        Err(_) => Conf::default(),
    };
    let files = documents(&args.config)?;
    if files.is_empty() {
        info!(phase = "service", "nothing to apply in {}", args.config.display());
        return Ok(());
    }
    let _lock = Lock::take(&args.how.state_dir)?;
    let how = args.how.with_override(conf.override_iface);
    for file in files {
        match one(&file, &conf, &how).await {
            Ok(true) => info!(phase = "service", "{} applied", file.display()),
            Ok(false) => info!(phase = "service", "{} was applied before", file.display()),
            Err(e) => error!(phase = "service", "{}: {e:#}", file.display()),
        }
    }
    Ok(())
}

async fn one(file: &Path, conf: &Conf, how: &How) -> anyhow::Result<bool> {
    let applied = file.with_extension("applied");
    let text = fs::read_to_string(file)?;
    if conf.keep_state_file_after_apply && fs::read_to_string(&applied).is_ok_and(|before| before == text) {
        return Ok(false);
    }
    for document in input::documents(&[file.to_owned()])? {
        apply::one_document(&document, how).await?;
    }
    match conf.keep_state_file_after_apply {
        true => fs::write(&applied, text)?,
        false => fs::rename(file, &applied)?,
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_switches_are_read_and_nothing_else() {
        let text = "[service]\nkeep_state_file_after_apply = true # why\noverride_iface=false\n";
        let want = Conf {
            keep_state_file_after_apply: true,
            override_iface: false,
        };
        assert_eq!(conf(text).unwrap(), want);
        assert!(conf("x = true").unwrap_err().to_string().contains("line 1"));
    }

    #[test]
    fn two_files_with_one_stem_are_refused() {
        let dir = std::env::temp_dir().join(format!("netwright-service-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        for name in ["b.yml", "a.yaml", "c.applied"] {
            fs::write(dir.join(name), "").unwrap();
        }
        let names: Vec<_> = documents(&dir)
            .unwrap()
            .iter()
            .map(|p| p.file_name().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["a.yaml", "b.yml"]);
        fs::write(dir.join("a.yml"), "").unwrap();
        assert!(documents(&dir).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
