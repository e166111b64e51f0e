//! What netlink does not tell: small files under /sys and /proc.

use std::fs;
use std::path::Path;

use crate::facts::{Facts, Sriov, Vf};

fn read(path: impl AsRef<Path>) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// Fills in host name, sysctls and, for hardware, driver, PCI address, speed and duplex.
pub fn fill(facts: &mut Facts) {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    facts.hostname.running = Some(name).filter(|n| !n.is_empty() && n != "(none)");
    let has_ipv6 = Path::new("/proc/sys/net/ipv6").exists();
    for link in &mut facts.links {
        let n = &link.name;
        link.ipv6_disabled =
            !has_ipv6 || read(format!("/proc/sys/net/ipv6/conf/{n}/disable_ipv6")).as_deref() == Some("1");
        link.ipv4_forwarding = read(format!("/proc/sys/net/ipv4/conf/{n}/forwarding")).map(|v| v == "1");
        link.addr_gen_mode = read(format!("/proc/sys/net/ipv6/conf/{n}/addr_gen_mode")).and_then(|v| v.parse().ok());
        if link.kind.is_some() || link.arphrd == 772 {
            continue;
        }
        let device = format!("/sys/class/net/{n}/device");
        let target = |path: String| Some(fs::canonicalize(path).ok()?.file_name()?.to_string_lossy().into_owned());
        link.driver = target(format!("{device}/driver"));
        // 0000:00:1f.4
        link.pci_address = target(device.clone()).filter(|a| a.len() == 12 && a.as_bytes()[4] == b':');
        // -1 where the driver cannot tell
        link.speed = read(format!("/sys/class/net/{n}/speed")).and_then(|v| v.parse().ok());
        link.duplex = read(format!("/sys/class/net/{n}/duplex")).filter(|v| v != "unknown");
        let number = |file: &str| read(format!("{device}/{file}")).and_then(|v| v.parse::<u32>().ok());
        link.sriov = number("sriov_totalvfs").filter(|most| *most > 0).map(|most| {
            let mut sriov = link.sriov.take().unwrap_or_default();
            sriov.most = most;
            sriov.count = number("sriov_numvfs").unwrap_or(0);
            sriov.autoprobe = number("sriov_drivers_autoprobe").map(|v| v == 1);
            virtual_interfaces(&device, &mut sriov);
            sriov
        });
    }
}

/// The interfaces of virtual functions, as far as they are in this namespace.
fn virtual_interfaces(device: &str, sriov: &mut Sriov) {
    for id in 0..sriov.count {
        let at = sriov.vfs.iter().position(|v| v.id == id).unwrap_or_else(|| {
            sriov.vfs.push(Vf { id, ..Vf::default() });
            sriov.vfs.len() - 1
        });
        let folder = fs::read_dir(format!("{device}/virtfn{id}/net")).ok();
        let first = folder.and_then(|mut entries| entries.next()?.ok());
        sriov.vfs[at].interface = first.map(|entry| entry.file_name().to_string_lossy().into_owned());
    }
    sriov.vfs.sort_by_key(|v| v.id);
}
