//! Files of ours beside NetworkManager's profiles: written whole or not at all.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::error::HostError;
use crate::facts::Facts;
use crate::state::part::alt_names;

/// Where NetworkManager's dispatcher looks, unless `NMSTATE_NM_DISPATCH_DIR` says otherwise.
const DISPATCH_DIR: &str = "/etc/NetworkManager/dispatcher.d";

/// Reads the files of ours: dispatcher scripts and `.link` files. A folder that is not there has none.
pub fn fill(facts: &mut Facts) {
    facts.dispatch_dir = std::env::var("NMSTATE_NM_DISPATCH_DIR").unwrap_or_else(|_| DISPATCH_DIR.to_owned());
    let dir = facts.dispatch_dir.clone();
    take(facts, &dir, "nmstate-", ".sh");
    take(facts, alt_names::FOLDER, alt_names::PREFIX, ".link");
}

fn take(facts: &mut Facts, folder: &str, prefix: &str, suffix: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(prefix)
            && name.ends_with(suffix)
            && let Ok(text) = fs::read_to_string(entry.path())
        {
            facts.files.insert(format!("{folder}/{name}"), text);
        }
    }
}

/// Writes a file with these permissions, or removes it for None. One that is gone already is fine.
pub fn put(path: &str, content: Option<&str>, mode: u32) -> Result<(), HostError> {
    let failed = |tried: &str, e: std::io::Error| HostError::Other(format!("{tried} {path}: {e}"));
    let Some(content) = content else {
        return match fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(failed("removing", e)),
            _ => Ok(()),
        };
    };
    let write = write(Path::new(path), content, mode, true);
    write.map_err(|e| failed("writing", e))
}

/// Writes a file with these permissions, whole or not at all, and its folder where that lacks. A durable one survives a power cut from here on.
pub fn write(path: &Path, content: &str, mode: u32, durable: bool) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let fresh = path.with_extension("netwright-new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&fresh)?;
    file.write_all(content.as_bytes())?;
    // the mode at creation is cut by the umask
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    if durable {
        file.sync_data()?;
    }
    fs::rename(&fresh, path)?;
    if durable {
        // its new name is in the folder (fsync(2)); a file system that cannot do that says EINVAL
        match fs::File::open(folder)?.sync_all() {
            Err(e) if e.kind() != std::io::ErrorKind::InvalidInput => return Err(e),
            _ => {}
        }
    }
    Ok(())
}
