//! `dispatch`: scripts that NetworkManager's dispatcher runs after an interface has come up or gone down.
//!
//! One file each in the dispatcher's folder, by the incumbent's names and form, so that either tool reads the other's.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Part;
use crate::facts::{Facts, Link};
use crate::profile::Profile;
use crate::step::Effect;

/// `dispatch`. Empty text removes a script.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Dispatch {
    /// Lines of bash, run when the interface is up, and again when its profile is reapplied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub post_activation: Option<String>,
    /// Lines of bash, run when the interface has gone down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub post_deactivation: Option<String>,
}

const START: &str = "## NMSTATE DISPATCH SCRIPT START\n";
const END: &str = "## NMSTATE DISPATCH SCRIPT END\n";
/// The dispatcher only runs what its owner may execute and others may not write (NetworkManager-dispatcher(8)).
const MODE: u32 = 0o744;

/// When a script runs.
#[derive(Clone, Copy)]
enum When {
    Up,
    Down,
}

impl When {
    fn path(self, name: &str, facts: &Facts) -> String {
        let suffix = match self {
            When::Up => "up",
            When::Down => "down",
        };
        format!("{}/nmstate-{name}-{suffix}.sh", facts.dispatch_dir)
    }

    fn file(self, name: &str, body: &str) -> String {
        let test = match self {
            When::Up => r#"{ [ "$2" = "up" ] || [ "$2" = "reapply" ]; }"#,
            When::Down => r#"[ "$2" = "down" ]"#,
        };
        let end = if body.ends_with('\n') { "" } else { "\n" };
        format!("#!/bin/bash\n\nif [ \"$1\" = \"{name}\" ] && {test}; then\n{START}{body}{end}{END}fi\n")
    }
}

/// What the user wrote of a script, without the end of its last line; None for a file of another form.
fn body(file: &str) -> Option<String> {
    let (_, rest) = file.split_once(START)?;
    let (body, _) = rest.rsplit_once(END)?;
    Some(body.trim_end().to_owned())
}

impl Part for Dispatch {
    const KEY: &'static str = "dispatch";
    const KERNEL_ONLY: bool = true;

    fn from_facts(link: &Link, facts: &Facts) -> Option<Self> {
        let read = |when: When| facts.files.get(&when.path(&link.name, facts)).and_then(|f| body(f));
        let found = Dispatch {
            post_activation: read(When::Up),
            post_deactivation: read(When::Down),
        };
        (found != Dispatch::default()).then_some(found)
    }

    fn to_profile(&self, _profile: &mut Profile) {}

    fn effects(&self, name: &str, facts: &Facts) -> Vec<Effect> {
        let Dispatch {
            post_activation,
            post_deactivation,
        } = self;
        let mut effects = vec![];
        for (when, wish) in [(When::Up, post_activation), (When::Down, post_deactivation)] {
            let Some(wish) = wish else { continue };
            let path = when.path(name, facts);
            let content = (!wish.is_empty()).then(|| when.file(name, wish));
            if facts.files.get(&path) != content.as_ref() {
                effects.push(Effect::File {
                    path,
                    content,
                    mode: MODE,
                });
            }
        }
        effects
    }

    fn leftovers(name: &str, facts: &Facts) -> Vec<Effect> {
        let there = [When::Up, When::Down].map(|when| when.path(name, facts));
        let there = there.into_iter().filter(|path| facts.files.contains_key(path));
        there
            .map(|path| Effect::File {
                path,
                content: None,
                mode: MODE,
            })
            .collect()
    }

    /// No script and an empty one are the same; a last line may lack its end.
    fn normalise(tree: &mut Value) {
        for key in ["post-activation", "post-deactivation"] {
            let slot = tree.get_mut(key);
            if let Some(script) = slot {
                *script = match script.as_str().map(str::trim_end).filter(|s| !s.is_empty()) {
                    Some(text) => text.to_owned().into(),
                    None => Value::Null,
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_comes_back_whatever_the_name() {
        for text in ["ip link\necho 1\n", "echo without end"] {
            let file = When::Up.file("br-ex.5", text);
            assert_eq!(body(&file).unwrap(), text.trim_end());
            assert!(file.contains("[ \"$1\" = \"br-ex.5\" ]"));
        }
        assert_eq!(body("#!/bin/sh\necho somebody else's\n"), None);
    }
}
