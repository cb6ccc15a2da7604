//! What a backbone hands to a decoder; the two know nothing else of each other.

use std::fmt;

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

    /// The only level; `None` if there are several.
    pub fn single(&self) -> Option<LevelLayout> {
        match self.levels.as_slice() {
            [level] => Some(*level),
            _ => None,
        }
    }

    /// Cells of each level for frames of `[W, H]` pixels, as `[rows, columns]`.
    pub fn grids(&self, [width, height]: [usize; 2]) -> Vec<[usize; 2]> {
        self.levels.iter().map(|level| [height / level.stride, width / level.stride]).collect()
    }
}

/// For messages: "2 levels of 64, 128 channels at strides 4, 8".
impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |number: fn(&LevelLayout) -> usize| {
            self.levels.iter().map(|level| number(level).to_string()).collect::<Vec<_>>().join(", ")
        };
        let (channels, strides) = (list(|level| level.channels), list(|level| level.stride));
        match self.levels.len() {
            1 => write!(f, "1 level of {channels} channels at stride {strides}"),
            count => write!(f, "{count} levels of {channels} channels at strides {strides}"),
        }
    }
}
