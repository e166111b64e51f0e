//! Where log lines go: the journal under systemd, text or JSON on stderr elsewhere.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, fmt, registry};

/// Form of the lines on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For machines.
    Json,
}

static QUIET: AtomicBool = AtomicBool::new(false);

/// Whether only errors are to be told.
pub fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// A remark beside the result, on stderr; `--quiet` leaves it out.
macro_rules! remark {
    ($($words:tt)*) => {
        if !$crate::log::is_quiet() {
            eprintln!($($words)*);
        }
    };
}
pub(crate) use remark;

/// Starts logging. `RUST_LOG` wins over `verbose` and `quiet`.
pub fn init(format: Format, verbose: u8, quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
    let level = match verbose {
        _ if quiet => "error",
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    // kube logs every failed connection as an error: a node that lost the apiserver would flood its journal
    let directives = format!(
        "{level},kube_client=off,kube_runtime=warn,hyper=warn,hyper_util=warn,rustls=warn,zbus=warn,hickory_proto=off,hickory_resolver=off,hickory_net=off,netlink_proto=warn,netlink_packet_route=error,surge_ping=off,tower=warn"
    );
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(directives));
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    let text = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    match journal {
        // fields become POLICY=, INTERFACE=, PHASE=
        Some(journal) => registry().with(filter).with(journal.with_field_prefix(None)).init(),
        None if format == Format::Json => registry()
            .with(filter)
            .with(fmt::layer().json().with_writer(std::io::stderr))
            .init(),
        None => registry().with(filter).with(text).init(),
    }
}
