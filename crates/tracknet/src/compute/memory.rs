//! How much memory may be used.

/// A bound on memory and where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryBound {
    /// Bytes that may be used.
    pub bytes: u64,
    /// For messages: `are available` or `are allowed by the memory limit`.
    pub origin: &'static str,
}

impl MemoryBound {
    /// What the user allows.
    pub(super) fn of_limit(limit: Option<u64>) -> Option<Self> {
        limit.map(|bytes| Self { bytes, origin: "are allowed by the memory limit" })
    }

    /// The smaller of `limit` and what the system has available; `None` if neither is known.
    pub(super) fn find(limit: Option<u64>) -> Option<Self> {
        let limit = Self::of_limit(limit);
        let available = available().map(|bytes| Self { bytes, origin: "are available" });
        limit.into_iter().chain(available).min_by_key(|bound| bound.bytes)
    }
}

/// Memory that can be had without swapping, in bytes: `MemAvailable`, or what the control group still allows.
fn available() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let number = |path: &str| read(path)?.trim().parse::<u64>().ok();
    let system = read("/proc/meminfo").and_then(|text| mem_available(&text));
    let group = |limit: &str, used: &str| Some(number(limit)?.saturating_sub(number(used)?));
    let version_2 = group("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current");
    let version_1 = group("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes");
    [system, version_2, version_1].into_iter().flatten().min()
}

fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_in_bytes() {
        assert_eq!(mem_available("MemTotal: 10 kB\nMemAvailable:    2048 kB\n"), Some(2048 * 1024));
        assert_eq!(mem_available("MemTotal: 10 kB\n"), None);
    }
}
