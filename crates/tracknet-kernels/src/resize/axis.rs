//! Where the samples of one axis come from.

/// For each output sample its lower neighbour in the input and the weight of the upper one.
pub(super) struct Axis {
    from: usize,
    samples: Vec<(usize, f32)>,
}

impl Axis {
    pub(super) fn new(from: usize, to: usize) -> Self {
        let scale = from as f32 / to as f32;
        let sample = |at: usize| {
            let source = ((at as f32 + 0.5) * scale - 0.5).max(0.0);
            let low = (source.floor() as usize).min(from - 1);
            (low, source - low as f32)
        };
        Self { from, samples: (0..to).map(sample).collect() }
    }

    /// Both neighbours with their weights; at the end of the axis they are the same.
    #[inline(always)]
    pub(super) fn sample(&self, at: usize) -> [(usize, f32); 2] {
        let (low, fraction) = self.samples[at];
        [(low, 1.0 - fraction), ((low + 1).min(self.from - 1), fraction)]
    }

    /// Samples of the output.
    pub(super) fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether the output has two samples for each of the input, whose weights are then ¼ and ¾ everywhere.
    #[cfg(feature = "flex")]
    pub(super) fn doubles(&self) -> bool {
        self.samples.len() == 2 * self.from
    }

    /// The weights as a matrix `[from, to]`.
    pub(super) fn matrix(&self) -> Vec<f32> {
        let mut weights = vec![0.0; self.from * self.len()];
        for column in 0..self.len() {
            for (row, weight) in self.sample(column) {
                weights[row * self.len() + column] += weight;
            }
        }
        weights
    }
}
