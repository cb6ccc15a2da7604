//! The operations a backend provides for deformable attention.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};

use super::reference;

/// The levels that queries look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pyramid {
    /// `[height, width]` of each level.
    pub levels: Vec<[usize; 2]>,
    /// Places that a query looks at in each level.
    pub points: usize,
}

impl Pyramid {
    /// Cells of all levels.
    pub fn cells(&self) -> usize {
        self.levels.iter().map(|[height, width]| height * width).sum()
    }

    /// Places that a query looks at in all levels.
    pub fn places(&self) -> usize {
        self.levels.len() * self.points
    }

    /// Each level with the number of its first cell.
    pub fn with_starts(&self) -> impl Iterator<Item = (usize, [usize; 2])> {
        self.levels.iter().scan(0, |next, &level| {
            let start = *next;
            *next += level[0] * level[1];
            Some((start, level))
        })
    }
}

/// Deformable attention on a backend; shapes as [`super::deformable_attention`] has them. The default bodies compose ordinary
/// tensor operations; a backend with an own kernel overrides them.
#[backend_extension(Autodiff, Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"))]
pub trait DeformableOps: Backend {
    /// `[batch, queries, heads · features]`.
    fn deformable_attention(
        value: FloatTensor<Self>,
        locations: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        pyramid: Pyramid,
    ) -> FloatTensor<Self> {
        reference::forward::<Self>(value, locations, weights, &pyramid)
    }

    /// The gradients of `value`, `locations` and `weights`, from that of the result.
    fn deformable_attention_gradients(
        value: FloatTensor<Self>,
        locations: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        pyramid: Pyramid,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        reference::gradients::<Self>([value, weights], locations, gradient, &pyramid)
    }
}
