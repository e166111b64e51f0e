pub fn crds_yaml() -> String {
    String::new()
}
