//! YAML (and so JSON) in and out, with the options that read what kubectl reads.

use serde::Serialize;
use serde_json::Value;

use crate::error::Invalid;

/// Largest text accepted, in bytes: a document of 200,000 lines. etcd refuses anything over 1.5 MiB anyway.
pub const MAX_BYTES: usize = 4 << 20;

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        legacy_octal_numbers: true,
        // line and column are enough: the lines around may hold a password, and the fault is published
        with_snippet: false,
        merge_keys: serde_saphyr::MergeKeyPolicy::Merge,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        budget: serde_saphyr::budget! { max_nodes: 1_000_000, max_events: 5_000_000, max_aliases: 1_000 },
    }
}

/// Reads every document of a text; empty documents are left out.
///
/// A no-break space counts as a space, as people paste manifests from web pages.
pub fn read_many(text: &str) -> Result<Vec<Value>, Invalid> {
    if text.len() > MAX_BYTES {
        let reason = format!("{} bytes of YAML, the limit is {MAX_BYTES}", text.len());
        return Err(Invalid::new("document", reason));
    }
    let text = text.replace('\u{a0}', " ");
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(&text, options())
        .map_err(|e| Invalid::new("document", e.to_string().trim_end().to_owned()))?;
    Ok(documents.into_iter().filter(|d| !d.is_null()).collect())
}

/// Reads a text that holds one document; an empty text is null.
pub fn read(text: &str) -> Result<Value, Invalid> {
    let mut documents = read_many(text)?;
    match documents.len() {
        0 => Ok(Value::Null),
        1 => Ok(documents.remove(0)),
        n => Err(Invalid::new("document", format!("{n} documents where one is expected"))),
    }
}

/// Prints as YAML that every parser reads back with the same types.
pub fn write<T: Serialize>(value: &T) -> String {
    serde_saphyr::to_string(value).unwrap_or_else(|e| format!("# cannot be printed: {e}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_scalars_as_kubectl_does() {
        let text = "a: yes\nb: 017\nc: 52:55:00:01:56:00\nd: ::1\ne: 1_000\nf: 0x10\n";
        let want = json!({"a": true, "b": 15, "c": "52:55:00:01:56:00", "d": "::1", "e": 1000, "f": 16});
        assert_eq!(read(text).unwrap(), want);
    }

    #[test]
    fn refuses_duplicate_keys_and_huge_texts() {
        assert!(read("a: 1\na: 2\n").unwrap_err().to_string().contains("line 2"));
        assert!(read(&"#".repeat(MAX_BYTES + 1)).is_err());
    }

    #[test]
    fn a_fault_does_not_quote_the_text() {
        let fault = read("a:\n- b: {password: hush\n  c: [\n").unwrap_err().to_string();
        assert!(fault.contains("line ") && !fault.contains("hush"), "{fault}");
    }

    #[test]
    fn prints_strings_that_look_like_other_things_quoted() {
        let text = write(&json!({"a": "on", "b": "52:55:00:01:56:00"}));
        assert_eq!(read(&text).unwrap(), json!({"a": "on", "b": "52:55:00:01:56:00"}));
    }
}
