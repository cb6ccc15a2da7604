//! Results filled in chunks, on several threads.
//!
//! Chunks are fixed by the caller, so the number of threads changes who fills a chunk and never what is in it.

use std::mem::MaybeUninit;

use crate::parallel::Threads;

/// Below this many values a call takes less time than handing it to other threads.
const SERIAL_VALUES: usize = 1 << 15;

/// A result of `len` values, and what `fill(number of the chunk, chunk)` returned for each chunk in order. A chunk has
/// `chunk` values (the last may have fewer) that are zero when `fill` gets them.
///
/// Zeroing happens here, right before a chunk is filled and while it fits a cache, and not for the whole result at once.
pub(crate) fn fill<T: Send>(
    len: usize,
    chunk: usize,
    fill: impl Fn(usize, &mut [f32]) -> T + Sync,
) -> (Vec<f32>, Vec<T>) {
    fill_from(len, chunk, len, fill)
}

/// [`fill`] for results that are smaller than what they are made from: `work` counts the values of that, and decides
/// whether threads are worth it.
pub(crate) fn fill_from<T: Send>(
    len: usize,
    chunk: usize,
    work: usize,
    fill: impl Fn(usize, &mut [f32]) -> T + Sync,
) -> (Vec<f32>, Vec<T>) {
    let mut values = Vec::with_capacity(len);
    let spare = &mut values.spare_capacity_mut()[..len];
    let returned = threads(work).map_chunks(spare, chunk, |number, chunk| {
        chunk.fill(MaybeUninit::new(0.0));
        // SAFETY: every value was written in the line above.
        fill(number, unsafe { chunk.assume_init_mut() })
    });
    // SAFETY: the chunks cover the first `len` values, and each was written before it was filled.
    unsafe { values.set_len(len) };
    (values, returned)
}

/// Changes values in chunks: `change(number of the chunk, chunk)`.
pub(crate) fn for_each(values: &mut [f32], chunk: usize, change: impl Fn(usize, &mut [f32]) + Sync) {
    threads(values.len()).for_each_chunk(values, chunk, change);
}

fn threads(values: usize) -> Threads {
    Threads::of_caller().if_worth(values > SERIAL_VALUES)
}

#[cfg(test)]
mod tests {
    use super::{SERIAL_VALUES, fill};

    #[test]
    fn every_value_and_every_return_is_in_its_place_on_any_path() {
        for len in [0, 1, 7, 100, SERIAL_VALUES + 5] {
            for chunk in [1, 7, 64, 100_000] {
                let write = |number: usize, values: &mut [f32]| {
                    assert!(values.iter().all(|value| *value == 0.0));
                    for (at, value) in values.iter_mut().enumerate() {
                        *value = (number * chunk + at) as f32;
                    }
                    number
                };
                let (values, numbers) = fill(len, chunk, write);
                assert!(values.iter().enumerate().all(|(at, value)| *value == at as f32) && values.len() == len);
                assert!(numbers.iter().copied().eq(0..len.div_ceil(chunk)));
            }
        }
    }

    #[test]
    fn callers_side_by_side_get_the_same_result() {
        let run = || fill(3 * SERIAL_VALUES, 1000, |number, values| values.fill(number as f32)).0;
        let alone = run();
        std::thread::scope(|scope| {
            for thread in [(); 4].map(|()| scope.spawn(run)) {
                assert_eq!(thread.join().unwrap(), alone);
            }
        });
    }
}
