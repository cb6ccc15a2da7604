use burn::tensor::Tensor;

/// What a backbone hands to a decoder; the two know nothing else of each other.
#[derive(Debug, Clone)]
pub struct Features {
    /// `[batch, channels, height / stride, width / stride]`.
    pub map: Tensor<4>,
    /// Input pixels per feature cell.
    pub stride: usize,
}
