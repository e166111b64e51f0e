//! What people get: YAML, or JSON for programs.

use std::io::Write;

use serde::Serialize;

use crate::yaml;

/// Prints a value on stdout. A closed pipe is the reader's choice.
pub fn print<T: Serialize>(value: &T, json: bool) -> anyhow::Result<()> {
    let text = match json {
        true => format!("{}\n", serde_json::to_string_pretty(value)?),
        false => yaml::write(value),
    };
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}
