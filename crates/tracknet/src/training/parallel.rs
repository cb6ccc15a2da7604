//! Independent pieces of a batch on several threads, with results in order.
//!
//! The CPU backend runs many operations on one thread; whole forward and backward passes side by side keep every core
//! busy. The pieces are the same for any number of threads, and so are the results.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Frames in one piece.
pub(super) const FRAMES_PER_PIECE: usize = 2;

/// The cores of this machine.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// `work(0), …, work(count − 1)` on at most `threads` threads; results in order of the index.
pub(super) fn map<T: Send>(count: usize, threads: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    if threads <= 1 || count <= 1 {
        return (0..count).map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(count));
    std::thread::scope(|scope| {
        for _ in 0..threads.min(count) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    let result = work(index);
                    let mut results = results.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    results.push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn results_come_in_order_for_any_number_of_threads() {
        let expected: Vec<usize> = (0..17).map(|i| i * i).collect();
        for threads in [0, 1, 2, 5, 40] {
            assert_eq!(super::map(17, threads, |i| i * i), expected);
        }
        assert!(super::map(0, 3, |i| i).is_empty());
    }
}
