//! A wall clock for each process, by libfaketime; the monotonic one is left alone.

use std::path::{Path, PathBuf};

fn file(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.clock"))
}

/// It is off by this from now on.
pub fn set(dir: &Path, name: &str, seconds: i32) {
    let (file, fresh) = (file(dir, name), dir.join(format!("{name}.clock-new")));
    std::fs::write(&fresh, format!("{seconds:+}\n")).expect("written");
    std::fs::rename(fresh, file).expect("it is there");
}

/// What a program is run with.
pub fn wrapper(dir: &Path, name: &str) -> [String; 5] {
    let libraries = std::fs::read_dir("/usr/lib").expect("it is there").flatten();
    let library = libraries
        .map(|d| d.path().join("faketime/libfaketimeMT.so.1"))
        .find(|l| l.exists())
        .expect("tests/bed/install.sh installs libfaketime");
    [
        "env".to_owned(),
        format!("LD_PRELOAD={}", library.display()),
        format!("FAKETIME_TIMESTAMP_FILE={}", file(dir, name).display()),
        "FAKETIME_NO_CACHE=1".to_owned(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
    ]
}
