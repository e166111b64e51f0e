//! The definitions in `crds/` are what the types say. `netwright crd` prints them.

use netwright::{api, yaml};

#[test]
fn crds_are_up_to_date() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/crds/nmstate.io.yaml"))
        .expect("crds/nmstate.io.yaml");
    assert!(
        text == api::crds_yaml(),
        "crds/nmstate.io.yaml is old: netwright crd > crds/nmstate.io.yaml"
    );
    assert_eq!(yaml::read_many(&text).expect("it is YAML").len(), 4);
}
