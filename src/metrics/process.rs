//! What Prometheus' own client libraries tell of a process, read from /proc at each scrape.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// This process.
#[derive(Debug)]
pub struct Process;

/// What `/proc/self/stat` says (proc(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    /// User and system time, in clock ticks.
    cpu: u64,
    /// Since boot, in clock ticks.
    start: u64,
    /// In pages.
    resident: u64,
}

/// The name may hold blanks and brackets: fields are counted from the last bracket on.
fn stat(text: &str) -> Option<Stat> {
    let rest = text.get(text.rfind(')')? + 2..)?;
    let fields: Vec<&str> = rest.split(' ').collect();
    // the first one is field 3, state
    let number = |n: usize| fields.get(n - 3)?.trim().parse::<u64>().ok();
    Some(Stat {
        cpu: number(14)? + number(15)?,
        start: number(22)?,
        resident: number(24)?,
    })
}

fn boot_time(text: &str) -> Option<f64> {
    text.lines().find_map(|l| l.strip_prefix("btime ")?.parse().ok())
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        if let Some(stat) = stat(&text("/proc/self/stat")) {
            let cpu = ConstCounter::new(stat.cpu as f64 / ticks);
            let to =
                encoder.encode_descriptor("process_cpu_seconds", "User and system time", None, cpu.metric_type())?;
            cpu.encode(to)?;
            let bytes = stat.resident * rustix::param::page_size() as u64;
            gauge(
                &mut encoder,
                "process_resident_memory_bytes",
                "Resident memory",
                bytes as f64,
            )?;
            if let Some(boot) = boot_time(&text("/proc/stat")) {
                let start = boot + stat.start as f64 / ticks;
                gauge(&mut encoder, "process_start_time_seconds", "Start, as Unix time", start)?;
            }
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // one of them is this list
            let open = open.count().saturating_sub(1);
            gauge(&mut encoder, "process_open_fds", "Open file descriptors", open as f64)?;
        }
        Ok(())
    }
}

fn gauge(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: f64) -> Result<(), fmt::Error> {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_from_the_name_on() {
        let text = "12 (a) b) S 1 12 12 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 4 0 777 1000000 321 1844 rest\n";
        let want = Stat {
            cpu: 300,
            start: 777,
            resident: 321,
        };
        assert_eq!(stat(text), Some(want));
        assert_eq!(stat("12 (a) S 1"), None);
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000.0));
    }
}
