//! What a pull cost, in one line at its end.

use std::fmt;
use std::time::Duration;

use super::format;

/// The cost of a pull, shown with `-v`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of blobs received, those received twice included.
    pub bytes: u64,
    /// From the first request to the last blob committed.
    pub elapsed: Duration,
    /// Connections opened.
    pub connections: u64,
    /// Requests sent again after a failure.
    pub retries: u64,
    /// Receives that passed their deadline or were slower than the minimum speed.
    pub stalls: u64,
    /// Bytes received that were not used: received twice, or thrown away.
    pub wasted: u64,
    /// Largest resident memory of the process so far, in bytes; see [`peak_memory`].
    pub peak_memory: Option<u64>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "fetched {} in {} ({}) over {}; {}, {}, {} wasted",
            format::bytes(self.bytes),
            format::duration(self.elapsed),
            format::rate(format::per_second(self.bytes, self.elapsed)),
            format::count(self.connections, "connection", "connections"),
            format::count(self.retries, "retry", "retries"),
            format::count(self.stalls, "stall", "stalls"),
            format::bytes(self.wasted),
        )?;
        match self.peak_memory {
            Some(peak) => write!(f, "; peak memory {}", format::bytes(peak)),
            None => Ok(()),
        }
    }
}

/// Largest resident memory of this process so far, in bytes; `None` where `/proc` does not tell.
pub fn peak_memory() -> Option<u64> {
    parse_peak(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// The `VmHWM` line of `/proc/<pid>/status` (proc_pid_status(5)); its `kB` are units of 1024 bytes.
fn parse_peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_one_line() {
        let mut summary = Summary {
            bytes: 400 << 20,
            elapsed: Duration::from_millis(2_200),
            connections: 8,
            retries: 1,
            stalls: 2,
            wasted: 3 << 20,
            peak_memory: Some(24 << 20),
        };
        assert_eq!(
            summary.to_string(),
            "fetched 400.0 MiB in 2.2 s (181.8 MiB/s) over 8 connections; \
             1 retry, 2 stalls, 3.0 MiB wasted; peak memory 24.0 MiB"
        );
        summary.peak_memory = None;
        assert!(summary.to_string().ends_with("3.0 MiB wasted"), "{summary}");
        assert_eq!(
            Summary::default().to_string(),
            "fetched 0 B in 0 s (0 B/s) over 0 connections; 0 retries, 0 stalls, 0 B wasted"
        );
    }

    #[test]
    fn the_peak_is_read_from_the_process_status() {
        for (status, expected) in [
            ("Name:\tx\nVmPeak:\t  99 kB\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n", Some(2 << 20)),
            ("VmHWM:\t2048\n", None),
            ("VmHWM:\tmany kB\n", None),
            ("VmHWM:\t18446744073709551615 kB\n", None),
            ("Name:\tkthreadd\n", None),
            ("", None),
        ] {
            assert_eq!(parse_peak(status), expected, "{status:?}");
        }
        assert!(peak_memory().is_some_and(|peak| peak > 100 << 10));
    }
}
