//! What a backbone hands to a decoder; the two know nothing else of each other.

use burn::tensor::Tensor;

/// Feature maps of one or several resolutions.
#[derive(Debug, Clone)]
pub struct Features {
    /// The maps, finest first.
    pub levels: Vec<Level>,
}

impl Features {
    /// The level with the fewest cells.
    ///
    /// # Panics
    /// Without a level, which no backbone returns.
    pub fn coarsest(&self) -> &Level {
        &self.levels[self.levels.len() - 1]
    }
}

/// One feature map.
#[derive(Debug, Clone)]
pub struct Level {
    /// `[batch, channels, height / stride, width / stride]`.
    pub map: Tensor<4>,
    /// Input pixels per feature cell.
    pub stride: usize,
}

/// The shapes of [`Features`], known before anything is computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The levels, finest first.
    pub levels: Vec<LevelLayout>,
}

/// The shape of one feature map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LevelLayout {
    /// Features of a cell.
    pub channels: usize,
    /// Input pixels per feature cell.
    pub stride: usize,
}

impl Layout {
    /// The level with the fewest cells.
    ///
    /// # Panics
    /// Without a level, which no backbone has.
    pub fn coarsest(&self) -> LevelLayout {
        self.levels[self.levels.len() - 1]
    }

    /// Cells of each level for frames of `[W, H]` pixels, as `[rows, columns]`.
    pub fn grids(&self, [width, height]: [usize; 2]) -> Vec<[usize; 2]> {
        self.levels.iter().map(|level| [height / level.stride, width / level.stride]).collect()
    }
}
