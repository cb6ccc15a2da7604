//! The initial matrices of an adapter: random, so that the model computes what it did, or computed from the float weight.
//!
//! The second kind must run while the weights are still floats, before they are quantized. It hands part of the weight to
//! the adapter and leaves the rest in the base, so that both together begin as the weight was:
//!
//! * `pissa` (Meng et al., 2024): `s·B·A` is the best approximation of its rank;
//! * `olora` (Büyükakyüz, 2024): `B`, `A` are the leading columns of `Q` and rows of `R`.
//!
//! `loftq` is in `loftq.rs`.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

use crate::config::InitMethod;
use crate::models::ModelError;
use crate::models::nn::{Builder, Fill, Linear, LinearWeight, RandomSource, Source};
use crate::models::state::replace;

use super::linalg::{Matrix, Svd, qr, svd};
use super::plan::PlannedModule;
use super::visit::VisitLayers;

/// Matrices `[A, B]` by module path.
pub(crate) type Matrices = BTreeMap<String, [TensorData; 2]>;

/// Computes the initial matrices of every planned linear layer by `pissa` or `olora` and leaves the rest of its weight in
/// the base.
///
/// # Errors
/// As [`values_of`].
pub(crate) fn split<M: VisitLayers>(
    method: InitMethod,
    model: &mut M,
    modules: &[PlannedModule],
) -> Result<Matrices, ModelError> {
    let mut found = Matrices::new();
    for_each(model, modules, |module, linear| {
        let weight = values_of(module, linear, method)?;
        let factors = match method {
            InitMethod::Olora => Factors::orthogonal(&weight, module.shape, module.rank),
            _ => Factors::principal(&weight, module.shape, module.rank, module.scale()),
        };
        replace_weight(module, linear, factors.subtracted_from(&weight, module.scale()));
        found.insert(module.path.clone(), factors.tensors());
        Ok(())
    })?;
    Ok(found)
}

/// Visits the planned linear layers of a model up to the first error.
pub(crate) fn for_each<M: VisitLayers>(
    model: &mut M,
    modules: &[PlannedModule],
    mut visit: impl FnMut(&PlannedModule, &mut Linear) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let mut result = Ok(());
    model.visit_linears_mut(&mut |path, linear| {
        if let (Ok(()), Some(module)) = (&result, modules.iter().find(|m| m.path == path)) {
            result = visit(module, linear);
        }
    });
    result
}

/// The float weight of a linear layer that initial matrices are computed from.
///
/// # Errors
/// A weight that is already packed or holds a value that is not finite, or a rank that is too large.
pub(crate) fn values_of(module: &PlannedModule, linear: &Linear, method: InitMethod) -> Result<Vec<f32>, ModelError> {
    let refuse = |message: String| Err(ModelError::Tensor { name: format!("{}.weight", module.path), message });
    let LinearWeight::Dense(weight) = &linear.weight else {
        return refuse(format!("is stored in 4 bits; init_lora_weights: {method} is computed from float weights"));
    };
    let [output, input] = module.shape;
    if module.rank > output.min(input) {
        let message = format!(
            "init_lora_weights: {method} needs a rank of at most {}, the smaller side of [{output}, {input}]; found {}",
            output.min(input),
            module.rank
        );
        return refuse(message);
    }
    let weight = match weight.val().into_data().convert::<f32>().try_to_vec::<f32>() {
        Ok(weight) => weight,
        Err(e) => return refuse(format!("cannot be read from the device: {e:?}")),
    };
    match weight.iter().position(|v| !v.is_finite()) {
        Some(i) => refuse(format!("holds {} at element {i}; no adapter can start from it", weight[i])),
        None => Ok(weight),
    }
}

/// Gives a linear layer another float weight.
pub(crate) fn replace_weight(module: &PlannedModule, linear: &mut Linear, values: Vec<f32>) {
    if let LinearWeight::Dense(weight) = &mut linear.weight {
        *weight = replace(weight.clone(), TensorData::new(values, module.shape));
    }
}

/// Matrices on the host: `Aᵀ: [in, rank]` and `B: [out, rank]`.
pub(crate) struct Factors {
    a: Matrix,
    b: Matrix,
}

impl Factors {
    /// The leading columns of `Q` and rows of `R`.
    fn orthogonal(weight: &[f32], shape: [usize; 2], rank: usize) -> Self {
        let (q, r) = qr(&Matrix::from_rows(weight, shape));
        Self { a: r.transposed().leading(rank), b: q.leading(rank) }
    }

    /// `s·B·A` is the nearest matrix of this rank.
    pub(crate) fn principal(weight: &[f32], shape: [usize; 2], rank: usize, scale: f32) -> Self {
        let Svd { left, values, right } = svd(&Matrix::from_rows(weight, shape), rank);
        let roots: Vec<f64> = values.iter().map(|v| (v / f64::from(scale)).sqrt()).collect();
        Self { a: right.scaled(&roots), b: left.scaled(&roots) }
    }

    /// `[A, B]` as an adapter holds them.
    pub(crate) fn tensors(&self) -> [TensorData; 2] {
        let tensor = |m: &Matrix| TensorData::new(m.to_rows(), m.shape());
        [tensor(&self.a.transposed()), tensor(&self.b)]
    }

    /// `weight − s·B·A`, with the matrices rounded as they are stored.
    pub(crate) fn subtracted_from(&self, weight: &[f32], scale: f32) -> Vec<f32> {
        let [a, b] = [&self.a, &self.b].map(|m| (m.to_rows(), m.shape()));
        let ((a, [input, rank]), (b, _)) = (a, b);
        let mut rest = weight.to_vec();
        rest.par_chunks_mut(input).zip(b.par_chunks(rank)).for_each(|(row, b)| {
            for (w, a) in row.iter_mut().zip(a.chunks_exact(rank)) {
                let update: f64 = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                *w = (f64::from(*w) - f64::from(scale) * update) as f32;
            }
        });
        rest
    }
}

/// Random initial matrices `[A, B]` for a module `[out, in]`; methods that read weights do as `true` does where there is no
/// weight to read.
pub(crate) fn random(
    method: InitMethod,
    [output, input]: [usize; 2],
    rank: usize,
    seed: u64,
    builder: &Builder<'_>,
) -> [Param<Tensor<2>>; 2] {
    let a = |fill| builder.at("lora_A").param("weight", [rank, input], fill);
    let b = |fill| builder.at("lora_B").param("weight", [output, rank], fill);
    match method {
        InitMethod::Random => [a(Fill::kaiming_uniform_sqrt5(input)), b(Fill::kaiming_uniform_sqrt5(rank))],
        InitMethod::Gaussian => [a(Fill::Normal(1.0 / rank as f32)), b(Fill::ZERO)],
        InitMethod::Orthogonal => {
            orthogonal([output, input], rank, seed, builder.path()).map(|data| parameter(data, builder.device()))
        }
        _ => [a(Fill::kaiming_uniform_sqrt5(input)), b(Fill::ZERO)],
    }
}

/// A trainable matrix.
pub(crate) fn parameter(data: TensorData, device: &Device) -> Param<Tensor<2>> {
    Param::from_tensor(Tensor::from_data(data, device))
}

/// The even rows of an orthogonal matrix span what its odd rows do not: with `A` in the one and `B` in the other, `B·A`
/// is zero and neither of them is.
fn orthogonal([output, input]: [usize; 2], rank: usize, seed: u64, path: &str) -> [TensorData; 2] {
    let source = RandomSource { seed };
    let normal = |name: &str, shape: [usize; 2]| {
        Matrix::from_rows(&source.values(&format!("{path}.{name}"), &shape, Fill::Normal(1.0)), shape)
    };
    let rows = qr(&normal("lora_Q", [rank, rank])).0.transposed();
    let half = rank / 2;
    // A tenth, as PEFT has it.
    let tenth = vec![0.1; rank];
    let a = normal("lora_A", [input, half]).times(&rows.every_second(0).transposed()).scaled(&tenth);
    let b = normal("lora_B", [output, half]).times(&rows.every_second(1).transposed()).scaled(&tenth);
    [TensorData::new(a.transposed().to_rows(), [rank, input]), TensorData::new(b.to_rows(), [output, rank])]
}

#[cfg(test)]
mod tests {
    use tracknet_kernels::{ComputeDtype, Linear4bitWeight, QuantizeOptions};

    use super::*;
    use crate::config::{DtypeName, QuantizationConfig};
    use crate::models::backbones::ModulePaths;
    use crate::models::lora::adapter::Scaling;
    use crate::models::lora::loftq::LoftqBase;
    use crate::models::lora::{AdaptableLayer, LoraLayer};
    use crate::models::quantization::Storage;

    const SHAPE: [usize; 2] = [40, 24];

    fn module(rank: usize) -> PlannedModule {
        let scaling = Scaling { alpha: 8.0, rslora: false };
        PlannedModule { path: "layer.0.q".to_owned(), shape: SHAPE, rank, scaling }
    }

    fn weight() -> Vec<f32> {
        RandomSource { seed: 1 }.values("w", &SHAPE, Fill::Normal(0.1))
    }

    /// A model of one linear layer.
    struct One(LoraLayer<Linear>);

    impl VisitLayers for One {
        fn visit_layers(&self, visit: &mut dyn FnMut(&str, &dyn AdaptableLayer)) {
            visit("layer.0.q", &self.0);
        }

        fn visit_layers_mut(&mut self, visit: &mut dyn FnMut(&str, &mut dyn AdaptableLayer)) {
            visit("layer.0.q", &mut self.0);
        }
    }

    fn one() -> One {
        let device = Device::default();
        let source = RandomSource { seed: 0 };
        let mut linear = Linear::new(SHAPE, false, 0.1, &Builder::new(&source, &device));
        linear.weight = LinearWeight::Dense(parameter(TensorData::new(weight(), SHAPE), &device));
        One(LoraLayer::new(linear))
    }

    fn values(model: &One) -> Vec<f32> {
        model.0.base.weight.dense().into_data().try_to_vec().unwrap()
    }

    fn storage(quant_type: &str, double_quant: bool) -> Storage {
        let config = QuantizationConfig {
            enabled: true,
            quant_type: quant_type.parse().unwrap(),
            compress_statistics: double_quant,
            compute_dtype: DtypeName::Float32,
            ..QuantizationConfig::default()
        };
        Storage::new(&config, ModulePaths::AsWritten).unwrap().unwrap()
    }

    /// `rest + s·B·A`.
    fn whole(rest: &[f32], [a, b]: &[TensorData; 2], scale: f32) -> Vec<f32> {
        let tensor = |data: &TensorData| Tensor::<2>::from_data(data.clone(), &Device::default());
        let update = tensor(b).matmul(tensor(a)).mul_scalar(scale).into_data().try_to_vec::<f32>().unwrap();
        rest.iter().zip(update).map(|(w, u)| w + u).collect()
    }

    fn error(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
    }

    #[test]
    fn base_and_adapter_together_start_as_the_weight_was() {
        for method in [InitMethod::Pissa, InitMethod::Olora] {
            let mut model = one();
            let matrices = split(method, &mut model, &[module(6)]).unwrap();
            let rest = values(&model);
            assert!(error(&rest, &weight()) > 0.5, "{method}: the base did not change");
            // Matrices and sums are rounded to f32.
            assert!(error(&whole(&rest, &matrices["layer.0.q"], module(6).scale()), &weight()) < 1e-5, "{method}");
        }
    }

    #[test]
    fn loftq_starts_nearer_to_the_weight_than_the_stored_base_and_nearer_with_every_turn() {
        let storage = storage("nf4", true);
        let stored = |values: &[f32]| storage.format().round_trip("w", values, SHAPE).unwrap();
        let mut last = error(&stored(&weight()), &weight());
        for turns in [1, 5] {
            let mut model = one();
            let (matrices, base) = LoftqBase::init(&mut model, &[module(6)], &storage, turns).unwrap();
            assert_eq!(values(&model) != weight(), turns > 1, "one turn stores the weight as ever");
            let read_back = stored(&values(&model));
            let now = error(&whole(&read_back, &matrices["layer.0.q"], module(6).scale()), &weight());
            assert!(now < 0.97 * last, "{turns} turns: {now} after {last}");
            last = now;

            // Computed again: to be stored, and as floats.
            let (mut to_store, mut floats) = (one(), one());
            base.restore(&mut to_store, &[module(6)], Some(&storage)).unwrap();
            base.restore(&mut floats, &[module(6)], None).unwrap();
            assert!(values(&to_store) == values(&model) && values(&floats) == read_back, "{turns} turns");
        }
    }

    #[test]
    fn a_base_that_is_stored_in_another_way_than_loftq_began_with_is_refused() {
        let (_, base) = LoftqBase::init(&mut one(), &[module(6)], &storage("nf4", false), 2).unwrap();
        for other in [storage("nf4", true), storage("fp4", false)] {
            let message = base.restore(&mut one(), &[module(6)], Some(&other)).unwrap_err().to_string();
            let parts = ["layer.0.q.weight", "would be stored as", "nf4 in blocks of 64 with float scales"];
            parts.iter().for_each(|part| assert!(message.contains(part), "{part}: {message}"));
        }
        let mut packed = one();
        let format = QuantizeOptions { double_quant: false, ..QuantizeOptions::default() };
        let weight = Linear4bitWeight::quantize(packed.0.base.weight.dense(), &format, ComputeDtype::F32).unwrap();
        packed.0.base.weight = LinearWeight::Packed(weight);
        let message = base.restore(&mut packed, &[module(6)], None).unwrap_err().to_string();
        assert!(message.contains("2 turns") && message.contains("give the float base"), "{message}");
        let (_, once) = LoftqBase::init(&mut one(), &[module(6)], &storage("nf4", false), 1).unwrap();
        once.restore(&mut packed, &[module(6)], None).unwrap();
    }

    #[test]
    fn an_orthogonal_start_changes_nothing_with_two_matrices_that_are_not_zero() {
        let matrices = orthogonal(SHAPE, 6, 3, "layer.0.q");
        let zero = vec![0.0; SHAPE[0] * SHAPE[1]];
        assert!(error(&whole(&zero, &matrices, 1.0), &zero) < 1e-5);
        for matrix in &matrices {
            assert!(matrix.iter::<f32>().any(|v| v.abs() > 0.05));
        }
    }

    #[test]
    fn what_the_methods_need_is_asked_for_by_name() {
        let message = split(InitMethod::Pissa, &mut one(), &[module(25)]).unwrap_err().to_string();
        assert!(message.contains("at most 24") && message.contains("found 25"), "{message}");
    }
}
