//! A low-rank adapter (Hu et al., 2021), with the rules of Hugging Face PEFT so that files interchange.
//!
//! One type carries every variant, because they differ in little: rsLoRA (Kalajdzievski, 2023) in the scale, DoRA (Liu
//! et al., 2024) in a factor for each output feature, the ways to start in nothing but the first values. A convolution's
//! adapter holds its kernels as rows, so that all of this is the same for it.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use tracknet_kernels::adapter::add_adapter;
use tracknet_kernels::matmul::matmul;

#[cfg(feature = "flex")]
use tracknet_kernels::dropout::KeepMask;

use crate::models::dropout::Dropout;
use crate::models::is_cpu;
use crate::models::layers::in_dtype_of;

/// `s · B(A(dropout(x)))` with `A: [rank, in]`, `B: [out, rank]`, added to the output of the layer it adapts.
#[derive(Module, Debug)]
pub struct LoraAdapter {
    /// `[rank, in]`; of a convolution `[rank, in · height · width]`.
    pub a: Param<Tensor<2>>,
    /// `[out, rank]`.
    pub b: Param<Tensor<2>>,
    /// The lengths of the rows of the adapted weight, when they are learned by themselves.
    pub dora: Option<Dora>,
    dropout: Dropout,
    #[module(skip)]
    scaling: Scaling,
}

/// Weight decomposition: the adapted weight `W + s·B·A` gives the directions of its rows, `magnitude` their lengths.
#[derive(Module, Debug)]
pub struct Dora {
    /// `[out]`.
    pub magnitude: Param<Tensor<1>>,
    /// `‖w‖²` of each row of the frozen weight, `[out]`; a constant.
    squares: Tensor<1>,
}

/// From `lora_alpha` and the rank to the factor in front of `B(A(x))`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scaling {
    /// `lora_alpha`, or what `alpha_pattern` says for the module.
    pub alpha: f32,
    /// Divide by the root of the rank.
    pub rslora: bool,
}

impl Scaling {
    /// `alpha / rank`, or `alpha / √rank`.
    pub fn factor(self, rank: usize) -> f32 {
        // As Python computes it, in double precision.
        let rank = if self.rslora { (rank as f64).sqrt() } else { rank as f64 };
        (f64::from(self.alpha) / rank) as f32
    }
}

impl LoraAdapter {
    /// An adapter from its matrices, trainable; `path` is the module it adapts.
    pub fn new([a, b]: [Param<Tensor<2>>; 2], scaling: Scaling, dropout: f32, path: &str) -> Self {
        Self { a, b, dora: None, dropout: Dropout::new(dropout, path), scaling }
    }

    /// The same from values; `a` is `[rank, in]`, `b` is `[out, rank]`.
    pub fn from_data(matrices: [TensorData; 2], scaling: Scaling, dropout: f32, path: &str, device: &Device) -> Self {
        Self::new(matrices.map(|data| Param::from_data(data, device)), scaling, dropout, path)
    }

    /// Learns the lengths of the rows of `weight + s·B·A` by themselves (`weight` is `[out, in]`): from `magnitude`, or
    /// from what they are.
    #[must_use]
    pub fn with_dora(mut self, weight: Tensor<2>, magnitude: Option<TensorData>) -> Self {
        let weight = weight.detach();
        let squares = row_squares(weight.clone());
        let device = self.a.val().device();
        let magnitude = match magnitude {
            Some(data) => Param::from_data(data, &device),
            None => {
                let lengths = self.lengths(squares.clone(), |rows| matmul(rows, weight.clone().transpose()));
                Param::from_data(lengths.into_data(), &device)
            }
        };
        self.dora = Some(Dora { magnitude, squares });
        self
    }

    /// Leaves the streams of dropout that it shares with its clones.
    pub fn own_dropout(&mut self) {
        self.dropout.own_stream();
    }

    /// Restarts the draws of the dropout.
    pub fn seed_dropout(&self, seed: u64) {
        self.dropout.seed(seed);
    }

    /// Rows of `A`, columns of `B`.
    pub fn rank(&self) -> usize {
        self.a.lazy_shape()[0]
    }

    /// How the scale comes about.
    pub fn scaling(&self) -> Scaling {
        self.scaling
    }

    /// The factor in front of `B(A(x))`.
    pub fn scale(&self) -> f32 {
        self.scaling.factor(self.rank())
    }

    /// The output of the adapted layer without its bias, `[rows, out]`, from that of the layer alone (`y`) and its input
    /// (`x`, `[rows, in]`). `times_weight` multiplies rows by the layer's transposed weight.
    pub fn forward(&self, y: Tensor<2>, x: Tensor<2>, times_weight: impl Fn(Tensor<2>) -> Tensor<2>) -> Tensor<2> {
        let gain = self.gain(&times_weight).map(|gain| gain.unsqueeze());
        let is_dropping = self.is_dora_dropping(&x);
        let x = self.drop(x);
        let of_dropped = is_dropping.then(|| times_weight(x.clone()));
        joined(y, self.thin(x), gain, of_dropped)
    }

    /// Whether DoRA must see the layer's output of the dropped input, too.
    pub(crate) fn is_dora_dropping<const D: usize>(&self, x: &Tensor<D>) -> bool {
        self.dora.is_some() && self.dropout.is_active(x)
    }

    /// The output of the adapted layer with its bias, where one pass of a kernel adds everything: on GPUs, without DoRA.
    pub(crate) fn forward_at_once(&self, y: Tensor<2>, x: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
        let dropout = self.dropout.draw(&x);
        add_adapter(y, x, [self.a.val(), self.b.val()], bias, self.scale(), dropout)
    }

    /// Whether [`Self::forward_at_once`] is the way on this device.
    pub(crate) fn is_at_once(&self, device: &Device) -> bool {
        self.dora.is_none() && self.dropout.probability() < 1.0 && !is_cpu(device)
    }

    /// `s · B(A(dropout(x)))`: `[rows, in]` → `[rows, out]`, as two thin products; the scale is applied to the thin one.
    pub fn update(&self, x: Tensor<2>) -> Tensor<2> {
        self.thin(self.drop(x))
    }

    fn thin(&self, x: Tensor<2>) -> Tensor<2> {
        let (a, b) = (in_dtype_of(self.a.val(), &x), in_dtype_of(self.b.val(), &x));
        let thin = matmul(x, a.transpose());
        matmul(thin.mul_scalar(self.scale()), b.transpose())
    }

    /// Whether dropout leaves anything of the input.
    #[cfg(feature = "flex")]
    pub(crate) fn keeps_some(&self) -> bool {
        self.dropout.probability() < 1.0
    }

    /// The next mask for the input `x`, for kernels that drop by themselves.
    #[cfg(feature = "flex")]
    pub(crate) fn draw_dropout<const D: usize>(&self, x: &Tensor<D>) -> Option<KeepMask> {
        self.dropout.draw(x)
    }

    /// Dropout on the adapter's input.
    pub(crate) fn drop<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.dropout.forward(x)
    }

    /// With DoRA, `magnitude / ‖w + s·b·A‖` for each output feature, `[out]`. The length is a constant to the backward
    /// pass (section 4.3 of the paper).
    pub(crate) fn gain(&self, times_weight: impl Fn(Tensor<2>) -> Tensor<2>) -> Option<Tensor<1>> {
        let dora = self.dora.as_ref()?;
        Some(dora.magnitude.val() / self.lengths(dora.squares.clone(), times_weight))
    }

    /// `‖w + s·b·A‖` of each row, from `‖w‖² + 2s·b·(A·w) + s²·b·(A·Aᵀ)·b`: thin products only, no dense update.
    fn lengths(&self, squares: Tensor<1>, times_weight: impl Fn(Tensor<2>) -> Tensor<2>) -> Tensor<1> {
        let (a, b, scale) = (self.a.val().detach(), self.b.val().detach(), self.scale());
        let gram = matmul(a.clone(), a.clone().transpose());
        let across = (b.clone() * times_weight(a).transpose()).sum_dim(1);
        let own = (matmul(b.clone(), gram) * b).sum_dim(1);
        let rows = squares.dims()[0];
        let change = (across.mul_scalar(2.0 * scale) + own.mul_scalar(scale * scale)).reshape([rows]);
        // A row of zeros has no direction; it stays zero instead of becoming NaN.
        (squares + change).clamp_min(f32::MIN_POSITIVE).sqrt()
    }

    /// `s · B · A`, dense: for merging and comparing, never in a forward pass.
    pub fn delta(&self) -> Tensor<2> {
        matmul(self.b.val(), self.a.val()).mul_scalar(self.scale()).detach()
    }

    /// The weight that alone does what `weight` `[out, in]` and this adapter do together, and with DoRA the factors by
    /// which its rows were stretched.
    pub fn merge(&self, weight: Tensor<2>) -> (Tensor<2>, Option<Tensor<1>>) {
        let sum = weight + self.delta();
        let Some(dora) = &self.dora else { return (sum, None) };
        let lengths = row_squares(sum.clone()).clamp_min(f32::MIN_POSITIVE).sqrt();
        let gain = dora.magnitude.val().detach() / lengths;
        (sum * column(gain.clone()), Some(gain))
    }

    /// Takes [`LoraAdapter::merge`] back, within rounding.
    pub fn unmerge(&self, merged: Tensor<2>, gain: Option<Tensor<1>>) -> Tensor<2> {
        let sum = match gain {
            Some(gain) => merged / column(gain),
            None => merged,
        };
        let device = sum.device();
        sum - Tensor::from_data(self.delta().into_data(), &device)
    }
}

/// The output of an adapted layer from that of the layer alone (`y`), the update, and the factors of DoRA. While dropout is
/// on, what DoRA adds to the layer alone comes from the dropped input, `of_dropped`, as in PEFT.
pub(crate) fn joined<const D: usize>(
    y: Tensor<D>,
    update: Tensor<D>,
    gain: Option<Tensor<D>>,
    of_dropped: Option<Tensor<D>>,
) -> Tensor<D> {
    let Some(gain) = gain else { return y + update };
    let gain = in_dtype_of(gain, &y);
    match of_dropped {
        Some(of_dropped) => y + of_dropped * gain.clone().sub_scalar(1.0) + update * gain,
        None => (y + update) * gain,
    }
}

fn column(x: Tensor<1>) -> Tensor<2> {
    let rows = x.dims()[0];
    x.reshape([rows, 1])
}

fn row_squares(x: Tensor<2>) -> Tensor<1> {
    let rows = x.dims()[0];
    x.square().sum_dim(1).reshape([rows])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::{Distribution, Gradients};

    use super::*;
    use crate::artifacts::adapter::peft::as_rows;
    use crate::artifacts::pretrained::save::read_all;
    use crate::models::init::{Builder, RandomSource};
    use crate::models::layers::ConvSpec;

    fn random(shape: [usize; 2], device: &Device) -> Tensor<2> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    }

    fn assert_close<const D: usize>(got: Tensor<D>, want: Tensor<D>, tolerance: f32) {
        let largest = want.clone().abs().max().into_scalar::<f32>();
        let difference = (got - want).abs().max().into_scalar::<f32>();
        assert!(difference <= tolerance * largest, "{difference} of {largest}");
    }

    #[test]
    fn output_and_gradients_are_those_of_the_dense_update_at_odd_shapes() {
        let device = Device::default().autodiff();
        let [rows, input, output, rank, scale] = [11, 7, 5, 3, 2];
        let x = random([rows, input], &device).require_grad();
        let weight = random([output, rows], &device);
        let [a, b] = [random([rank, input], &device), random([output, rank], &device)];
        let matrices = [a.clone().into_data(), b.clone().into_data()];
        let scaling = Scaling { alpha: (scale * rank) as f32, rslora: false };
        let adapter = LoraAdapter::from_data(matrices, scaling, 0.0, "test", &device);
        let thin = adapter.update(x.clone());
        let thin_gradients = thin.clone().matmul(weight.clone()).square().mean().backward();

        let (a, b) = (a.detach().require_grad(), b.detach().require_grad());
        let y = x.clone().detach().require_grad();
        let update = b.clone().matmul(a.clone()).mul_scalar(scale as f32);
        let dense = y.clone().matmul(update.transpose());
        let dense_gradients = dense.clone().matmul(weight).square().mean().backward();

        let pairs = [
            (thin, dense),
            (x.grad(&thin_gradients).unwrap(), y.grad(&dense_gradients).unwrap()),
            (adapter.a.val().grad(&thin_gradients).unwrap(), a.grad(&dense_gradients).unwrap()),
            (adapter.b.val().grad(&thin_gradients).unwrap(), b.grad(&dense_gradients).unwrap()),
        ];
        for (got, want) in pairs {
            // Sums of fewer than a hundred f32 products, associated differently.
            assert_close(got, want, 1e-5);
        }
    }

    #[test]
    fn dora_is_the_formula_of_its_paper_and_its_length_passes_no_gradient() {
        let device = Device::default().autodiff();
        let [rows, input, output, rank] = [6, 9, 5, 2];
        let [x, w] = [random([rows, input], &device), random([output, input], &device)];
        let [a, b] = [random([rank, input], &device), random([output, rank], &device)];
        let m = random([output, 1], &device).abs().add_scalar(0.5);
        let matrices = [a.clone().into_data(), b.clone().into_data()];
        let scaling = Scaling { alpha: 3.0, rslora: true };
        let magnitude = m.clone().reshape([output]).into_data();
        let adapter =
            LoraAdapter::from_data(matrices, scaling, 0.0, "test", &device).with_dora(w.clone(), Some(magnitude));
        let times_weight = |x: Tensor<2>| x.matmul(w.clone().transpose());
        let got = adapter.forward(times_weight(x.clone()), x.clone(), times_weight);
        let got_gradients = got.clone().square().mean().backward();

        let [a, b, m] = [a, b, m].map(|t| t.detach().require_grad());
        let sum = w.clone() + b.clone().matmul(a.clone()).mul_scalar(scaling.factor(rank));
        let length = sum.clone().square().sum_dim(1).sqrt().detach();
        let want = x.clone().matmul((sum * (m.clone() / length)).transpose());
        let gradients = want.clone().square().mean().backward();
        assert_close(got, want, 1e-5);
        let trained = adapter.dora.as_ref().unwrap().magnitude.val().grad(&got_gradients).unwrap();
        assert_close(trained.reshape([output, 1]), m.grad(&gradients).unwrap(), 1e-4);
        assert_close(adapter.a.val().grad(&got_gradients).unwrap(), a.grad(&gradients).unwrap(), 1e-4);
        assert_close(adapter.b.val().grad(&got_gradients).unwrap(), b.grad(&gradients).unwrap(), 1e-4);
    }

    /// Tensors of `dora_dropout.safetensors`, made by PEFT with the masks that are drawn here.
    fn golden(layer: &str) -> impl Fn(&str) -> TensorData {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dora_dropout.safetensors");
        let tensors = read_all(&path).unwrap();
        let layer = layer.to_owned();
        move |name| tensors[&format!("{layer}.{name}")].clone()
    }

    /// The adapter of a golden layer, with the stream of dropout that its mask was drawn from.
    fn golden_adapter(layer: &str, weight: Tensor<2>) -> LoraAdapter {
        let golden = golden(layer);
        let rows = |name: &str| as_rows(&format!(".lora_{name}.weight"), golden(&name.to_lowercase()));
        let magnitude = as_rows(".lora_magnitude_vector", golden("m"));
        let scaling = Scaling { alpha: 3.0, rslora: false };
        let adapter = LoraAdapter::from_data([rows("A"), rows("B")], scaling, 0.5, layer, &weight.device())
            .with_dora(weight, Some(magnitude));
        adapter.seed_dropout(7);
        adapter
    }

    fn assert_gradients(adapter: &LoraAdapter, gradients: &Gradients, golden: impl Fn(&str) -> TensorData) {
        let [a, b] = [&adapter.a, &adapter.b].map(|p| p.val().grad(gradients).unwrap());
        let m = adapter.dora.as_ref().unwrap().magnitude.val().grad(gradients).unwrap();
        let device = a.device();
        let count = m.dims()[0];
        let want = |name: &str, rows: usize, columns: usize| {
            let values: Vec<f32> = golden(name).iter::<f32>().collect();
            Tensor::<2>::from_data(TensorData::new(values, [rows, columns]), &device)
        };
        let ([a_rows, a_columns], [b_rows, b_columns]) = (a.dims(), b.dims());
        assert_close(a, want("grad_a", a_rows, a_columns), 1e-5);
        assert_close(b, want("grad_b", b_rows, b_columns), 1e-5);
        assert_close(m.reshape([1, count]), want("grad_m", 1, count), 1e-5);
    }

    #[test]
    fn dora_with_dropout_gives_the_output_and_the_gradients_of_peft_on_a_linear_layer() {
        let device = Device::default().autodiff();
        let golden = golden("linear");
        let tensor = |name: &str| Tensor::<2>::from_data(golden(name), &device);
        let (x, weight) = (tensor("x").require_grad(), tensor("w"));
        let adapter = golden_adapter("linear", weight.clone());
        let drawn = adapter.drop(Tensor::<2>::ones(x.dims(), &device));
        assert_eq!(drawn.into_data(), golden("mask"), "another mask: make the fixture again");

        adapter.seed_dropout(7);
        let times_weight = |x: Tensor<2>| x.matmul(weight.clone().transpose());
        let bias = Tensor::<1>::from_data(golden("bias"), &device);
        let y = adapter.forward(times_weight(x.clone()), x.clone(), times_weight) + bias.unsqueeze();
        let gradients = y.clone().square().mean().backward();
        assert_close(y, tensor("y"), 1e-5);
        assert_close(x.grad(&gradients).unwrap(), tensor("grad_x"), 1e-5);
        assert_gradients(&adapter, &gradients, golden);
    }

    #[test]
    fn dora_with_dropout_gives_the_output_and_the_gradients_of_peft_on_a_convolution() {
        let device = Device::default().autodiff();
        let golden = golden("convolution");
        let tensor = |name: &str| Tensor::<4>::from_data(golden(name), &device);
        let (x, weight) = (tensor("x").require_grad(), tensor("w"));
        let source = RandomSource { seed: 0 };
        let spec = ConvSpec::square([3, 4], 3).stride(2).with_bias();
        let mut conv = spec.build(&Builder::new(&source, &device));
        conv.weight = Param::from_tensor(weight).set_require_grad(false);
        conv.bias = Some(Param::from_tensor(Tensor::from_data(golden("bias"), &device)));
        let adapter = golden_adapter("convolution", conv.rows());
        let drawn = adapter.drop(Tensor::<4>::ones(x.dims(), &device));
        assert_eq!(drawn.into_data(), golden("mask"), "another mask: make the fixture again");

        adapter.seed_dropout(7);
        conv.adapter = Some(adapter);
        let y = conv.forward(x.clone());
        let gradients = y.clone().square().mean().backward();
        assert_close(y, tensor("y"), 1e-5);
        assert_close(x.grad(&gradients).unwrap(), tensor("grad_x"), 1e-5);
        assert_gradients(conv.adapter.as_ref().unwrap(), &gradients, golden);
    }

    #[test]
    fn merging_and_taking_it_back_returns_the_weight() {
        let device = Device::default();
        for dora in [false, true] {
            let w = random([5, 9], &device);
            let matrices = [random([3, 9], &device).into_data(), random([5, 3], &device).into_data()];
            let scaling = Scaling { alpha: 6.0, rslora: false };
            let adapter = LoraAdapter::from_data(matrices, scaling, 0.0, "test", &device);
            let adapter = if dora {
                let magnitude = TensorData::from([0.5f32, 1.0, 2.0, 3.0, 1.5]);
                adapter.with_dora(w.clone(), Some(magnitude))
            } else {
                adapter
            };
            let x = random([4, 9], &device);
            let times_weight = |x: Tensor<2>| x.matmul(w.clone().transpose());
            let adapted = adapter.forward(times_weight(x.clone()), x.clone(), times_weight);
            let (merged, gain) = adapter.merge(w.clone());
            assert_close(x.matmul(merged.clone().transpose()), adapted, 1e-5);
            // One rounding of each sum and, with DoRA, of each product.
            assert_close(adapter.unmerge(merged, gain), w, 1e-5);
        }
    }
}
