//! Decoded and resized frames by index. Windows share them: the cache holds single frames.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};

use image::RgbImage;

/// A resized frame and its native size `[W, H]`.
pub(super) type CachedFrame = (RgbImage, [usize; 2]);

/// Resized frames, kept until the budget is spent, and besides those that were decoded last.
#[derive(Debug)]
pub(super) struct Cache {
    slots: Vec<OnceLock<CachedFrame>>,
    budget: usize,
    used: AtomicUsize,
    /// Frames that the budget has no room for, latest first.
    recent: Mutex<VecDeque<(usize, CachedFrame)>>,
    most_recent: usize,
}

impl Cache {
    /// A cache of `frames` frames in `budget` bytes, which remembers the last `most_recent` frames beyond them.
    pub(super) fn new(frames: usize, budget: usize, most_recent: usize) -> Self {
        let slots = if budget == 0 { Vec::new() } else { (0..frames).map(|_| OnceLock::new()).collect() };
        Self { slots, budget, used: AtomicUsize::new(0), recent: Mutex::default(), most_recent }
    }

    pub(super) fn get(&self, index: usize) -> Option<CachedFrame> {
        if let Some(kept) = self.slots.get(index).and_then(OnceLock::get) {
            return Some(kept.clone());
        }
        if self.most_recent == 0 {
            return None;
        }
        self.lock().iter().find(|(of, _)| *of == index).map(|(_, frame)| frame.clone())
    }

    pub(super) fn put(&self, index: usize, picture: &RgbImage, native_size: [usize; 2]) {
        if !self.keep(index, picture, native_size) && self.most_recent > 0 {
            let mut recent = self.lock();
            recent.retain(|(of, _)| *of != index);
            recent.truncate(self.most_recent - 1);
            recent.push_front((index, (picture.clone(), native_size)));
        }
    }

    /// Keeps a frame for good; `false` if the budget has no room for it.
    fn keep(&self, index: usize, picture: &RgbImage, native_size: [usize; 2]) -> bool {
        let Some(slot) = self.slots.get(index) else { return false };
        let bytes = picture.as_raw().len();
        let reserved = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if reserved > self.budget {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        if slot.set((picture.clone(), native_size)).is_err() {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
        true
    }

    /// Nobody can panic while holding the lock, so a poisoned one is taken as it is.
    fn lock(&self) -> MutexGuard<'_, VecDeque<(usize, CachedFrame)>> {
        self.recent.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_kept_until_the_budget_is_spent_and_then_the_last_ones() {
        let picture = |value: u8| RgbImage::from_pixel(2, 2, image::Rgb([value; 3]));
        let cache = Cache::new(5, 12, 2);
        for index in 0..5 {
            cache.put(index, &picture(index as u8), [4, 4]);
        }
        let held: Vec<bool> = (0..5).map(|index| cache.get(index).is_some()).collect();
        assert_eq!(held, [true, false, false, true, true]);
        assert_eq!(cache.get(3), Some((picture(3), [4, 4])));
        let none = Cache::new(5, 0, 0);
        none.put(1, &picture(1), [4, 4]);
        assert_eq!(none.get(1), None);
    }
}
