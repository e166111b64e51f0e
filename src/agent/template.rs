//! `{{ node.name }}`, `{{ node.labels["k"] }}`, `{{ node.annotations["k"] }}` in the strings of a state. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::Invalid;

/// What templates may name.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// `metadata.name`
    pub name: String,
    /// `metadata.labels`
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`
    pub annotations: BTreeMap<String, String>,
}

/// Fills in every string; the error names the path.
pub fn fill(value: &mut Value, node: &Node) -> Result<(), Invalid> {
    match value {
        Value::String(text) if text.contains("{{") => {
            *text = expand(text, node).map_err(|why| Invalid::new("", why))?
        }
        Value::Array(list) => {
            for (i, item) in list.iter_mut().enumerate() {
                fill(item, node).map_err(|e| e.under(&format!("[{i}]")))?;
            }
        }
        Value::Object(map) => {
            for (key, item) in map {
                fill(item, node).map_err(|e| e.under(key))?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn expand(text: &str, node: &Node) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        let end = rest[start..]
            .find("}}")
            .ok_or_else(|| format!("'{text}' opens {{{{ and does not close it"))?
            + start;
        out.push_str(&rest[..start]);
        out.push_str(&look_up(rest[start + 2..end].trim(), node)?);
        rest = &rest[end + 2..];
    }
    out.push_str(rest);
    Ok(out)
}

fn look_up(what: &str, node: &Node) -> Result<String, String> {
    if what == "node.name" {
        return Ok(node.name.clone());
    }
    for (prefix, map, word) in [
        ("node.labels[", &node.labels, "label"),
        ("node.annotations[", &node.annotations, "annotation"),
    ] {
        let key = what
            .strip_prefix(prefix)
            .and_then(|r| r.strip_suffix(']'))
            .map(|k| k.trim().trim_matches(['"', '\'']));
        if let Some(key) = key {
            return map
                .get(key)
                .cloned()
                .ok_or_else(|| format!("node {} has no {word} '{key}'", node.name));
        }
    }
    Err(format!(
        "'{{{{ {what} }}}}' is none of node.name, node.labels[\"…\"], node.annotations[\"…\"]"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_policy_an_address_for_each_node() {
        let labels = [("rack/ip".to_owned(), "192.0.2.7".to_owned())].into();
        let node = Node {
            name: "node01".into(),
            labels,
            ..Node::default()
        };
        let mut state = json!({"interfaces": [{"name": "eth1", "description": "of {{ node.name }}!", "ip": "{{ node.labels[\"rack/ip\"] }}"}]});
        fill(&mut state, &node).unwrap();
        assert_eq!(state["interfaces"][0]["ip"], "192.0.2.7");
        assert_eq!(state["interfaces"][0]["description"], "of node01!");
        let fault = fill(&mut json!({"a": [{"b": "{{ node.labels[\"x\"] }}"}]}), &node).unwrap_err();
        assert_eq!(fault.to_string(), "a[0].b: node node01 has no label 'x'");
    }
}
