//! Keeps large blocks in the process: a training step allocates and frees the same tensors again and again, and
//! glibc by default returns each block above 32 MB to the system, which then clears every page anew.

/// Tells glibc's allocator to serve large blocks from one heap that it keeps. Call it first thing in `main`; on other
/// systems it does nothing.
pub fn keep_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const KEEP: libc::c_int = 1 << 30;
        // SAFETY: mallopt only stores the values; glibc takes its own lock, and unknown values are refused by a
        // return value that does not matter here.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 1);
            libc::mallopt(libc::M_MMAP_THRESHOLD, KEEP);
            libc::mallopt(libc::M_TRIM_THRESHOLD, KEEP);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn blocks_of_odd_sizes_can_be_taken_and_given_back_afterwards() {
        super::keep_large_blocks();
        for bytes in [1usize, 33, 40_000_001, 70_000_003] {
            let block = vec![7u8; bytes];
            assert_eq!((block[0], block[bytes - 1]), (7, 7));
        }
    }
}
