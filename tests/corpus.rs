//! What the fuzz targets start from and what they have found so far, run as it is.

use std::path::Path;

use netwright::fuzz;

type Target = fn(&[u8]);

#[test]
fn nothing_in_the_corpus_makes_us_fall_over() {
    let targets: [(&str, Target); 4] = [
        ("document", fuzz::document),
        ("capture", fuzz::capture),
        ("ovsdb", fuzz::ovsdb),
        ("netlink", fuzz::netlink),
    ];
    for (name, run) in targets {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut count = 0;
        for entry in entries.flatten() {
            let bytes = std::fs::read(entry.path()).expect("a file of the corpus");
            println!("{}", entry.path().display());
            run(&bytes);
            // and everything that it may look like when it is cut short
            for end in (0..bytes.len()).step_by(bytes.len().div_ceil(64).max(1)) {
                run(&bytes[..end]);
            }
            count += 1;
        }
        assert!(count > 0, "there is no corpus for {name}");
    }
}
