//! Who uses the threads of the pool: pieces of work side by side, or the loops inside a single one.
//!
//! A kernel shares its loops out to all threads unless it runs inside a piece of [`map`] whose siblings keep the other
//! threads busy. That is a property of the caller and of nothing else: callers that have nothing to do with each other
//! never see one another. Loops are cut the same way on one thread and on many, so results do not depend on it.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

thread_local! {
    /// Number of unfinished pieces in the group whose piece this thread runs.
    static UNFINISHED: RefCell<Option<Arc<AtomicUsize>>> = const { RefCell::new(None) };
}

/// `work(0), …, work(count − 1)`, at most `at_once` at a time; results in order of the index.
///
/// Pieces run on the pool of the caller, the same that kernels inside them share their loops out to. While several are at
/// work, each keeps its loops to its own thread; the last one to finish, or the only one, shares them out. Pieces run
/// in groups of `at_once`, one group after the other: a thread that waits for a loop of its piece would otherwise begin
/// another piece, and more of them would hold memory than `at_once` allows.
pub fn map<T: Send>(count: usize, at_once: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    if at_once <= 1 || count <= 1 || Threads::of_caller() == Threads::One {
        return (0..count).map(work).collect();
    }
    let mut results = Vec::with_capacity(count);
    for first in (0..count).step_by(at_once) {
        let group = first..(first + at_once).min(count);
        let unfinished = Arc::new(AtomicUsize::new(group.len()));
        let piece = |index| {
            let _piece = Piece::enter(&unfinished);
            work(index)
        };
        results.par_extend(group.into_par_iter().with_max_len(1).map(piece));
    }
    results
}

/// A piece at work on this thread. On drop, so also in a panic, the thread goes back to what it was at before: it may have
/// begun the piece while it waited for a loop of another.
struct Piece {
    outer: Option<Arc<AtomicUsize>>,
}

impl Piece {
    fn enter(unfinished: &Arc<AtomicUsize>) -> Self {
        Self { outer: UNFINISHED.replace(Some(Arc::clone(unfinished))) }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(unfinished) = UNFINISHED.replace(self.outer.take()) {
            unfinished.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Items that one thread can take in order, or many threads share: a range of numbers, or a vector.
pub(crate) trait Items<T>:
    IntoIterator<Item = T> + IntoParallelIterator<Iter: IndexedParallelIterator, Item = T>
{
}

impl<T, I: IntoIterator<Item = T> + IntoParallelIterator<Iter: IndexedParallelIterator, Item = T>> Items<T> for I {}

/// The threads that run the loops of a call. Chosen once where a kernel is called and passed on to the loops inside:
/// these may run on threads that are at work for somebody else too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The caller's own.
    One,
    /// All of the caller's pool.
    Pool,
}

impl Threads {
    /// The threads that the caller may use: [`Self::One`] in a piece of [`map`] that is not the last one at work.
    pub(crate) fn of_caller() -> Self {
        let siblings =
            UNFINISHED.with_borrow(|group| group.as_ref().is_some_and(|left| left.load(Ordering::Relaxed) > 1));
        if siblings || rayon::current_num_threads() == 1 { Self::One } else { Self::Pool }
    }

    /// These, if there is enough work to be worth handing over.
    #[cfg(feature = "flex")]
    pub(crate) fn if_worth(self, is_worth: bool) -> Self {
        if is_worth { self } else { Self::One }
    }

    /// `work` of each item.
    #[cfg(feature = "flex")]
    pub(crate) fn for_each<T: Send>(self, items: impl Items<T>, work: impl Fn(T) + Sync + Send) {
        match self {
            Self::One => items.into_iter().for_each(work),
            Self::Pool => items.into_par_iter().for_each(work),
        }
    }

    /// What `work` returned for each item, in order.
    pub(crate) fn map<T: Send, R: Send>(self, items: impl Items<T>, work: impl Fn(T) -> R + Sync + Send) -> Vec<R> {
        match self {
            Self::One => items.into_iter().map(work).collect(),
            Self::Pool => items.into_par_iter().map(work).collect(),
        }
    }

    /// `work` of each chunk of `len` values (the last may have fewer) and its number; what it returned, in order.
    pub(crate) fn map_chunks<T: Send, R: Send>(
        self,
        values: &mut [T],
        len: usize,
        work: impl Fn(usize, &mut [T]) -> R + Sync,
    ) -> Vec<R> {
        let work = |(number, chunk): (usize, &mut [T])| work(number, chunk);
        match self {
            Self::One => values.chunks_mut(len.max(1)).enumerate().map(work).collect(),
            Self::Pool => values.par_chunks_mut(len.max(1)).enumerate().map(work).collect(),
        }
    }

    /// `work` of each chunk of `len` values (the last may have fewer) and its number.
    pub(crate) fn for_each_chunk<T: Send>(self, values: &mut [T], len: usize, work: impl Fn(usize, &mut [T]) + Sync) {
        let work = |(number, chunk): (usize, &mut [T])| work(number, chunk);
        match self {
            Self::One => values.chunks_mut(len.max(1)).enumerate().for_each(work),
            Self::Pool => values.par_chunks_mut(len.max(1)).enumerate().for_each(work),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::{Barrier, Condvar, Mutex};
    use std::thread::{self, ThreadId};
    use std::time::{Duration, Instant};

    use super::{Threads, map};

    fn with_threads<T: Send>(count: usize, work: impl FnOnce() -> T + Send) -> T {
        rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap().install(work)
    }

    #[test]
    fn results_come_in_order_for_any_number_of_threads() {
        let expected: Vec<usize> = (0..17).map(|i| i * i).collect();
        for at_once in [0, 1, 2, 5, 40] {
            assert_eq!(map(17, at_once, |i| i * i), expected);
        }
        assert!(map(0, 3, |i| i).is_empty());
    }

    #[test]
    fn pieces_side_by_side_keep_to_one_thread_each_and_the_last_one_at_work_gets_them_all() {
        with_threads(2, || {
            let both = Barrier::new(2);
            let found = map(2, 2, |index| {
                both.wait();
                let together = Threads::of_caller();
                both.wait();
                if index == 0 {
                    return (together, None);
                }
                // The other piece has nothing left to do but to finish.
                let deadline = Instant::now() + Duration::from_secs(20);
                while Threads::of_caller() == Threads::One && Instant::now() < deadline {
                    thread::yield_now();
                }
                (together, Some(Threads::of_caller()))
            });
            assert_eq!(found, [(Threads::One, None), (Threads::One, Some(Threads::Pool))]);
            assert_eq!(Threads::of_caller(), Threads::Pool);
            assert_eq!(map(1, 2, |_| Threads::of_caller()), [Threads::Pool]);
        });
        assert_eq!(with_threads(1, Threads::of_caller), Threads::One);
    }

    #[test]
    fn pieces_within_a_piece_run_on_its_thread() {
        with_threads(2, || {
            let both = Barrier::new(2);
            let found = map(2, 2, |_| {
                both.wait();
                let outer = thread::current().id();
                let inner = map(3, 3, |_| thread::current().id());
                both.wait();
                inner.iter().all(|thread| *thread == outer)
            });
            assert_eq!(found, [true, true]);
        });
    }

    #[test]
    fn a_piece_that_panics_leaves_its_thread_as_it_was() {
        with_threads(2, || {
            let panicked = std::panic::catch_unwind(|| map(2, 2, |index| assert!(index > 2, "on purpose")));
            assert!(panicked.is_err());
            let all = rayon::broadcast(|_| Threads::of_caller());
            assert_eq!(all, [Threads::Pool; 2]);
        });
    }

    /// Threads that worked on a loop whose chunks wait until two have met, or until much time has passed.
    fn threads_of_a_loop(values: &mut [usize]) -> usize {
        let (threads, met) = (Mutex::new(HashSet::<ThreadId>::new()), Condvar::new());
        Threads::of_caller().for_each_chunk(values, 1, |number, chunk| {
            chunk[0] = number;
            let mut threads = threads.lock().unwrap();
            threads.insert(thread::current().id());
            met.notify_all();
            drop(met.wait_timeout_while(threads, Duration::from_secs(20), |threads| threads.len() < 2).unwrap());
        });
        threads.into_inner().unwrap().len()
    }

    #[test]
    fn callers_that_know_nothing_of_each_other_both_get_all_threads() {
        let begun = Barrier::new(2);
        let caller = || {
            with_threads(2, || {
                let mut values = [usize::MAX; 4];
                begun.wait();
                let threads = threads_of_a_loop(&mut values);
                // Neither leaves before the other has finished its loop.
                begun.wait();
                (threads, values)
            })
        };
        thread::scope(|scope| {
            for caller in [(); 2].map(|()| scope.spawn(caller)) {
                assert_eq!(caller.join().unwrap(), (2, [0, 1, 2, 3]));
            }
        });
    }
}
