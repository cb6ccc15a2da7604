//! Batches on their way to the device: while a step computes, the next batch is copied.
//!
//! On a processor there is nothing to copy, and on a device that ran out of memory no room: there micro-batches become tensors
//! where they are computed.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use burn::tensor::{Device, Tensor, TensorData};

use crate::compute::Compute;
use crate::datasets::Batch;
use crate::error::Result;

use super::TrainingError;

/// Sizes of the tensors in a batch, those of pictures as `[W, H]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchShape {
    /// Input size.
    pub input: [usize; 2],
    /// Frames of a window.
    pub frames: usize,
    /// Heatmap size.
    pub heatmap: [usize; 2],
    /// Heatmaps of a window.
    pub heatmaps: usize,
}

/// The tensors of some frames of a batch.
#[derive(Debug, Clone)]
pub struct BatchTensors {
    /// `[batch, 3 · frames, height, width]`.
    pub images: Tensor<4>,
    /// `[batch, heatmaps, heatmap height, heatmap width]`.
    pub targets: Tensor<4>,
    /// `[batch, heatmaps, heatmap height, heatmap width]`.
    pub masks: Tensor<4>,
}

impl BatchShape {
    /// A batch as a step takes it, on the device if that has memory of its own.
    ///
    /// # Errors
    /// If the batch does not hold the values of its frames.
    pub fn stage(self, batch: Batch, compute: &Compute) -> Result<StagedBatch> {
        let staged = self.on_host(batch, compute)?;
        let uploads = compute.has_own_memory() && staged.size > 0;
        let uploaded = uploads.then(|| self.upload(&staged.batch, &staged.device));
        Ok(StagedBatch { uploaded, ..staged })
    }

    /// A batch as a step takes it, in the memory of the host: micro-batches become tensors one by one.
    fn on_host(self, batch: Batch, compute: &Compute) -> Result<StagedBatch> {
        self.check(&batch)?;
        let (size, mask_sum) = (batch.size, mask_weight(&batch));
        Ok(StagedBatch { size, mask_sum, batch, shape: self, device: compute.training_device(), uploaded: None })
    }

    /// Frames of `batch` on `device`.
    ///
    /// # Errors
    /// If the batch does not hold the values of its frames.
    pub fn tensors(self, batch: &Batch, frames: Range<usize>, device: &Device) -> Result<BatchTensors> {
        self.check(batch)?;
        let part = |values: &[f32], shape: [usize; 3]| {
            let values = values[frames.start * length(shape)..frames.end * length(shape)].to_vec();
            Tensor::from_data(data(values, frames.len(), shape), device)
        };
        let [images, heatmaps] = self.frame();
        Ok(BatchTensors {
            images: part(&batch.images, images),
            targets: part(&batch.targets, heatmaps),
            masks: part(&batch.masks, heatmaps),
        })
    }

    /// All of a batch, by way of memory that the device copies from on its own.
    fn upload(self, batch: &Batch, device: &Device) -> BatchTensors {
        let [images, heatmaps] = self.frame();
        let parts = [(&batch.images, images), (&batch.targets, heatmaps), (&batch.masks, heatmaps)];
        let mut all = parts.map(|(values, shape)| data(values.clone(), batch.size, shape));
        device.staging(all.iter_mut());
        let [images, targets, masks] = all.map(|data| Tensor::from_data(data, device));
        BatchTensors { images, targets, masks }
    }

    fn check(self, batch: &Batch) -> Result<()> {
        let [images, heatmaps] = self.frame();
        let parts = [
            ("images", &batch.images, images),
            ("targets", &batch.targets, heatmaps),
            ("masks", &batch.masks, heatmaps),
        ];
        for (what, values, shape) in parts {
            if values.len() != batch.size * length(shape) {
                let found = format!("a batch of {} frames has {} values of {what}", batch.size, values.len());
                return Err(TrainingError::Mismatch(format!("{found}, expected {} a frame", length(shape))).into());
            }
        }
        Ok(())
    }

    /// `[channels, height, width]` of a window and of its heatmaps.
    fn frame(self) -> [[usize; 3]; 2] {
        let ([width, height], [columns, rows]) = (self.input, self.heatmap);
        [[3 * self.frames, height, width], [self.heatmaps, rows, columns]]
    }
}

fn length(shape: [usize; 3]) -> usize {
    shape.iter().product()
}

fn data(values: Vec<f32>, frames: usize, [channels, height, width]: [usize; 3]) -> TensorData {
    TensorData::new(values, [frames, channels, height, width])
}

/// The mask weight of a whole batch, added in float64.
pub fn mask_weight(batch: &Batch) -> f64 {
    batch.masks.iter().map(|&v| f64::from(v)).sum()
}

/// A batch where a step reads it.
#[derive(Debug)]
pub struct StagedBatch {
    /// Number of frames.
    pub size: usize,
    /// The mask weight of the whole batch.
    pub mask_sum: f64,
    batch: Batch,
    shape: BatchShape,
    device: Device,
    /// All of the batch, where it was copied to the device.
    uploaded: Option<BatchTensors>,
}

impl StagedBatch {
    /// Gives the memory of the device back; returns whether there was any.
    pub(super) fn unload(&mut self) -> bool {
        self.uploaded.take().is_some()
    }

    /// Some of its frames.
    ///
    /// # Errors
    /// None that a staged batch can have.
    pub(super) fn tensors(&self, frames: Range<usize>) -> Result<BatchTensors> {
        match &self.uploaded {
            None => self.shape.tensors(&self.batch, frames, &self.device),
            Some(all) if frames == (0..self.size) => Ok(all.clone()),
            Some(all) => {
                let part = |x: &Tensor<4>| x.clone().narrow(0, frames.start, frames.len());
                Ok(BatchTensors { images: part(&all.images), targets: part(&all.targets), masks: part(&all.masks) })
            }
        }
    }
}

/// Brings the batches of a run to its device: the next one is copied while a step computes.
#[derive(Debug, Clone)]
pub struct Staging {
    shape: BatchShape,
    compute: Compute,
    /// Whether the device has room for whole batches.
    roomy: Arc<AtomicBool>,
}

impl Staging {
    /// For batches of this shape.
    pub fn new(shape: BatchShape, compute: &Compute) -> Self {
        Self { shape, compute: compute.clone(), roomy: Arc::new(AtomicBool::new(true)) }
    }

    /// From now on, leaves batches on the host. One that is ready may be on the device all the same.
    pub(super) fn keep_on_host(&self) {
        self.roomy.store(false, Ordering::Relaxed);
    }

    /// Whether batches stay on the host.
    pub(super) fn keeps_on_host(&self) -> bool {
        !self.roomy.load(Ordering::Relaxed)
    }

    /// The batches of an iterator: one ahead, on a thread of its own, where batches have to be copied.
    pub fn stage(
        &self,
        batches: impl Iterator<Item = Result<Batch>> + Send + 'static,
    ) -> Box<dyn Iterator<Item = Result<StagedBatch>>> {
        let staging = self.clone();
        let staged = batches.map(move |batch| {
            let Staging { shape, compute, .. } = &staging;
            match staging.keeps_on_host() {
                true => shape.on_host(batch?, compute),
                false => shape.stage(batch?, compute),
            }
        });
        if self.compute.has_own_memory() { Box::new(Ahead::of(staged)) } else { Box::new(staged) }
    }
}

/// An iterator that another thread runs, one item ahead of who takes them.
struct Ahead<T> {
    /// `None` once nobody takes items any more.
    items: Option<Receiver<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Ahead<T> {
    fn of(mut items: impl Iterator<Item = T> + Send + 'static) -> Self {
        // Without room in the channel: the one item that waits is the one that its thread holds.
        let (give, take) = sync_channel(0);
        let thread = thread::spawn(move || {
            // The other side is gone when a run was stopped.
            while items.next().is_some_and(|item| give.send(item).is_ok()) {}
        });
        Self { items: Some(take), thread: Some(thread) }
    }
}

impl<T> Iterator for Ahead<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let item = self.items.as_ref()?.recv().ok();
        if item.is_none() {
            self.finish();
        }
        item
    }
}

impl<T> Ahead<T> {
    /// Waits for the thread; if it panicked, so does this one.
    fn finish(&mut self) {
        self.items = None;
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl<T> Drop for Ahead<T> {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn items_come_in_order_and_at_most_one_is_ahead() {
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let items = Ahead::of((0..20).inspect(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
        }));
        for (expected, item) in items.enumerate() {
            assert_eq!(item, expected);
            assert!(made.load(Ordering::SeqCst) <= item + 2);
        }
        assert_eq!(made.load(Ordering::SeqCst), 20);
    }

    #[test]
    fn a_thread_ends_when_nobody_takes_its_items_and_its_panic_is_passed_on() {
        let mut endless = Ahead::of(0u64..);
        assert_eq!(endless.next(), Some(0));
        drop(endless);
        let caught = std::panic::catch_unwind(|| Ahead::of((0..3).map(|i| 1 / (2 - i))).count());
        assert!(caught.is_err());
    }

    #[test]
    fn a_batch_without_its_values_is_refused() {
        let shape = BatchShape { input: [4, 2], frames: 1, heatmap: [2, 1], heatmaps: 1 };
        let images = vec![0.0; 2 * 3 * 8];
        let batch = |images| Batch { size: 2, images, targets: vec![0.0; 4], masks: vec![1.0; 4], samples: Vec::new() };
        let staged = shape.stage(batch(images.clone()), &Compute::new(&Device::flex())).unwrap();
        assert_eq!((staged.size, staged.mask_sum), (2, 4.0));
        assert_eq!(staged.tensors(1..2).unwrap().images.dims(), [1, 3, 2, 4]);
        let error = shape.stage(batch(images[1..].to_vec()), &Compute::new(&Device::flex())).unwrap_err().to_string();
        assert!(error.contains("images") && error.contains("expected 24"), "{error}");
    }
}
