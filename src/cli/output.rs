//! What people get: YAML, or JSON for programs.

use std::io::Write;

use serde::Serialize;

use crate::yaml;

/// A value as YAML or JSON.
pub fn text<T: Serialize>(value: &T, json: bool) -> anyhow::Result<String> {
    Ok(match json {
        true => format!("{}\n", serde_json::to_string_pretty(value)?),
        false => yaml::write(value),
    })
}

/// Prints a value on stdout. A closed pipe is the reader's choice.
pub fn print<T: Serialize>(value: &T, json: bool) -> anyhow::Result<()> {
    let _ = std::io::stdout().write_all(text(value, json)?.as_bytes());
    Ok(())
}
