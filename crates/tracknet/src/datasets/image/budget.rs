//! A bound on the pixels that all decoders of a process hold at once.
//!
//! A limit for each picture bounds nothing when sixteen workers decode at the same time: whoever decodes first reserves the
//! bytes that it will need, and waits while others hold too many. Only the time of decoding depends on it, never a result.

use std::sync::{Condvar, Mutex, MutexGuard};

/// What every decoder of this process reserves from.
pub(super) static PIXELS: Budget = Budget::new(1 << 30);

/// Bytes that may be held at once.
pub(super) struct Budget {
    limit: u64,
    used: Mutex<u64>,
    freed: Condvar,
}

impl Budget {
    pub(super) const fn new(limit: u64) -> Self {
        Self { limit, used: Mutex::new(0), freed: Condvar::new() }
    }

    /// Waits until so many bytes are free, and takes them until the result is dropped. Whoever needs more than there is
    /// waits for all of it, and then decodes alone. Nobody who holds some may ask for more: two who do could wait for each
    /// other.
    pub(super) fn reserve(&self, bytes: u64) -> Reserved<'_> {
        let bytes = bytes.min(self.limit);
        let mut used = self.lock();
        while *used + bytes > self.limit {
            used = self.freed.wait(used).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        *used += bytes;
        Reserved { budget: self, bytes }
    }

    /// The bytes in use; nobody can panic while holding the lock, so a poisoned one is taken as it is.
    fn lock(&self) -> MutexGuard<'_, u64> {
        self.used.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Bytes of a [`Budget`], given back when dropped.
pub(super) struct Reserved<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        *self.budget.lock() -= self.bytes;
        self.budget.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn threads_together_never_hold_more_than_the_limit_and_all_get_their_turn() {
        let budget = Budget::new(100);
        let (held, most, turns) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..8u64 {
                let (budget, held, most, turns) = (&budget, &held, &most, &turns);
                scope.spawn(move || {
                    for turn in 0..200 {
                        let bytes = [7, 40, 100, 1000][(thread + turn) as usize % 4];
                        let _reserved = budget.reserve(bytes);
                        let counted = bytes.min(100);
                        let now = held.fetch_add(counted, Ordering::SeqCst) + counted;
                        most.fetch_max(now, Ordering::SeqCst);
                        std::thread::yield_now();
                        held.fetch_sub(counted, Ordering::SeqCst);
                        turns.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(turns.into_inner(), 8 * 200);
        assert_eq!(most.into_inner(), 100);
        assert_eq!(*budget.lock(), 0);
    }

    #[test]
    fn bytes_come_back_after_a_panic() {
        let budget = Budget::new(10);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _reserved = budget.reserve(10);
            panic!("in a codec");
        }));
        assert!(caught.is_err());
        assert_eq!(budget.reserve(99).bytes, 10);
    }
}
