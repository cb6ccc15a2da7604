//! Independent work on several threads, with results in order.
//!
//! The CPU backend runs many operations on one thread; whole forward and backward passes side by side keep every core
//! busy.

pub(crate) use tracknet_kernels::parallel::map;

/// The threads of the pool: the cores of this machine, or as many as RAYON_NUM_THREADS says.
pub(crate) fn cores() -> usize {
    rayon::current_num_threads()
}
