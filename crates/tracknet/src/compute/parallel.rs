//! Independent work on several threads, with results in order.
//!
//! The CPU backend runs many operations on one thread; whole forward and backward passes side by side keep every core
//! busy.

use rayon::prelude::*;

/// The threads of the pool: the cores of this machine, or as many as RAYON_NUM_THREADS says.
pub(crate) fn cores() -> usize {
    rayon::current_num_threads()
}

/// `work(0), …, work(count − 1)`, at most `threads` at a time; results in order of the index.
///
/// They run on the pool that the operations inside them use: an operation that is already on a thread of the pool starts
/// its parallel loops without handing them over. They run in waves, because a thread that waits for a loop would
/// otherwise begin another piece, and more of them would hold memory than `threads` allows.
pub(crate) fn map<T: Send>(count: usize, threads: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    if threads <= 1 || count <= 1 {
        return (0..count).map(work).collect();
    }
    let mut results = Vec::with_capacity(count);
    for first in (0..count).step_by(threads) {
        let wave = first..(first + threads).min(count);
        results.par_extend(wave.into_par_iter().with_max_len(1).map(&work));
    }
    results
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
