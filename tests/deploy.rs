//! What is in `deploy/`, by the tools that people use it with. `tests/deploy.sh` does the work.

mod common;

use std::process::Command;

use common::{may_run, said};

/// Runs a part of the script. A machine without its tools (exit code 77) says so and passes, unless they were promised.
fn part(name: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/deploy.sh");
    let out = Command::new(script).arg(name).output().expect("bash");
    let said = said(&out);
    if out.status.code() == Some(77) {
        let promised = ["CI", "NETWRIGHT_BED"].iter().any(|v| std::env::var_os(v).is_some());
        assert!(!promised, "the bed is promised, so that nothing is skipped\n{said}");
        eprintln!("SKIPPED: {said}");
        return;
    }
    assert!(out.status.success(), "{said}");
    println!("{said}");
}

#[test]
fn kustomize_and_helm_render_the_same_objects() {
    part("render");
}

#[test]
fn an_apiserver_takes_all_of_it_and_a_node_writes_only_its_own() {
    if may_run() {
        part("cluster");
    }
}
