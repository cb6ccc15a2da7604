//! First values of an adapter: random, so that the model starts as it was, or computed from the float weight.
//!
//! The second kind must run while the weights are still floats, before they are quantized. It hands part of the weight
//! to the adapter and leaves the rest in the base, so that both together start as the weight was:
//!
//! * `pissa` (Meng et al., 2024): `s·B·A` is the best approximation of its rank;
//! * `olora` (Büyükakyüz, 2024): `B`, `A` are the leading columns of `Q` and rows of `R`;
//! * `loftq` (Li et al., 2023): `s·B·A` is the best approximation of what 4-bit storage loses, in turns with storing
//!   what the adapter leaves. PEFT's own leaves out `s`, and so starts close to the weight only where `s` is 1.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

use crate::config::InitMethod;
use crate::models::ModelError;
use crate::models::init::{Builder, Fill, RandomSource, Source};
use crate::models::projection::{Base, VisitProjections};
use crate::models::state::replace;

use super::linalg::{Matrix, Svd, qr, svd};
use super::quantization::Format;
use super::wrapper::PlannedModule;

/// Matrices `[A, B]` by module path.
pub(crate) type Matrices = BTreeMap<String, [TensorData; 2]>;

/// How first values are computed from weights.
#[derive(Debug, Clone, Copy)]
pub(super) struct FromWeights {
    pub(super) method: InitMethod,
    /// Alternations of `loftq`.
    pub(super) iterations: usize,
    /// How the base will be stored, if it will be.
    pub(super) format: Option<Format>,
}

impl FromWeights {
    /// Computes the first matrices of every planned projection and leaves the rest of its weight in the base.
    ///
    /// # Errors
    /// A weight that is already packed, a rank that is too large, or `loftq` without a 4-bit format.
    pub(super) fn run<M: VisitProjections>(
        &self,
        model: &mut M,
        modules: &[PlannedModule],
    ) -> Result<Matrices, ModelError> {
        let mut found = Matrices::new();
        let mut failed = None;
        model.visit_projections_mut(&mut |path, projection| {
            let Some(module) = modules.iter().find(|m| m.path == path).filter(|_| failed.is_none()) else { return };
            let result = self.split(module, &projection.base).map(|(matrices, rest)| {
                if let (Some(rest), Base::Dense(weight)) = (rest, &mut projection.base) {
                    *weight = replace(weight.clone(), TensorData::new(rest, module.shape));
                }
                found.insert(path.to_owned(), matrices);
            });
            failed = result.err();
        });
        failed.map_or(Ok(found), Err)
    }

    /// The matrices, and the weight that is left when it is another.
    fn split(&self, module: &PlannedModule, base: &Base) -> Result<([TensorData; 2], Option<Vec<f32>>), ModelError> {
        let method = self.method;
        let refuse = |message: String| Err(ModelError::Tensor { name: format!("{}.weight", module.path), message });
        let Base::Dense(weight) = base else {
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
        if let Some(i) = weight.iter().position(|v| !v.is_finite()) {
            return refuse(format!("holds {} at element {i}; no adapter can start from it", weight[i]));
        }
        let scale = module.scale();
        match (method, self.format) {
            (InitMethod::Olora, _) => {
                let (q, r) = qr(&Matrix::from_rows(&weight, module.shape));
                let start = Start { a: r.transposed().leading(module.rank), b: q.leading(module.rank) };
                Ok((start.tensors(), Some(start.without(&weight, scale))))
            }
            (InitMethod::Loftq, Some(format)) => self.loftq(module, &weight, format),
            (InitMethod::Loftq, None) => {
                let message = "init_lora_weights: loftq makes up for what 4-bit storage loses, but quantization is off";
                refuse(message.to_owned())
            }
            _ => {
                let start = Start::principal(&weight, module.shape, module.rank, scale);
                Ok((start.tensors(), Some(start.without(&weight, scale))))
            }
        }
    }

    fn loftq(
        &self,
        module: &PlannedModule,
        weight: &[f32],
        format: Format,
    ) -> Result<([TensorData; 2], Option<Vec<f32>>), ModelError> {
        let mut stored = weight.to_vec();
        let mut turns = 1;
        let start = loop {
            let read_back = format.round_trip(&module.path, &stored, module.shape)?;
            let lost: Vec<f32> = weight.iter().zip(&read_back).map(|(w, q)| w - q).collect();
            let start = Start::principal(&lost, module.shape, module.rank, module.scale());
            if turns >= self.iterations {
                break start;
            }
            stored = start.without(weight, module.scale());
            turns += 1;
        };
        // After one turn the base is stored as it would have been anyway.
        Ok((start.tensors(), (turns > 1).then_some(stored)))
    }
}

/// `Aᵀ: [in, rank]` and `B: [out, rank]`.
struct Start {
    a: Matrix,
    b: Matrix,
}

impl Start {
    /// `s·B·A` is the nearest matrix of this rank.
    fn principal(weight: &[f32], shape: [usize; 2], rank: usize, scale: f32) -> Self {
        let Svd { left, values, right } = svd(&Matrix::from_rows(weight, shape), rank);
        let roots: Vec<f64> = values.iter().map(|v| (v / f64::from(scale)).sqrt()).collect();
        Self { a: right.scaled(&roots), b: left.scaled(&roots) }
    }

    fn tensors(&self) -> [TensorData; 2] {
        let tensor = |m: &Matrix| TensorData::new(m.to_rows(), m.shape());
        [tensor(&self.a.transposed()), tensor(&self.b)]
    }

    /// `weight − s·B·A`, with the matrices rounded as they are stored.
    fn without(&self, weight: &[f32], scale: f32) -> Vec<f32> {
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

/// Random first matrices `[A, B]` for a module `[out, in]`; methods that read weights start as `true` does where there
/// is no weight to read.
pub(super) fn random(
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

pub(super) fn parameter(data: TensorData, device: &Device) -> Param<Tensor<2>> {
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
    use super::*;
    use crate::config::QuantizationConfig;
    use crate::models::lora::adapter::Scaling;

    const SHAPE: [usize; 2] = [40, 24];

    fn module(rank: usize) -> PlannedModule {
        let scaling = Scaling { alpha: 8.0, rslora: false };
        PlannedModule { path: "layer.0.q".to_owned(), shape: SHAPE, rank, scaling }
    }

    fn weight() -> Vec<f32> {
        RandomSource { seed: 1 }.values("w", &SHAPE, Fill::Normal(0.1))
    }

    fn base() -> Base {
        Base::Dense(parameter(TensorData::new(weight(), SHAPE), &Device::default()))
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
            let start = FromWeights { method, iterations: 1, format: None };
            let (matrices, rest) = start.split(&module(6), &base()).unwrap();
            let rest = rest.unwrap();
            assert!(error(&rest, &weight()) > 0.5, "{method}: the base did not change");
            // Matrices and sums are rounded to f32.
            assert!(error(&whole(&rest, &matrices, module(6).scale()), &weight()) < 1e-5, "{method}");
        }
    }

    #[test]
    fn loftq_starts_nearer_to_the_weight_than_the_stored_base_and_nearer_with_every_turn() {
        let quantization = QuantizationConfig { compute_dtype: "float32".to_owned(), ..QuantizationConfig::default() };
        let format = Format::new(&quantization).unwrap();
        let stored = |values: &[f32]| format.round_trip("w", values, SHAPE).unwrap();
        let mut last = error(&stored(&weight()), &weight());
        for iterations in [1, 5] {
            let start = FromWeights { method: InitMethod::Loftq, iterations, format: Some(format) };
            let (matrices, rest) = start.split(&module(6), &base()).unwrap();
            assert_eq!(rest.is_some(), iterations > 1, "one turn stores the weight as ever");
            let read_back = stored(&rest.unwrap_or_else(weight));
            let now = error(&whole(&read_back, &matrices, module(6).scale()), &weight());
            assert!(now < 0.97 * last, "{iterations} turns: {now} after {last}");
            last = now;
        }
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
        let start = |method| FromWeights { method, iterations: 1, format: None };
        let message = start(InitMethod::Pissa).split(&module(25), &base()).unwrap_err().to_string();
        assert!(message.contains("at most 24") && message.contains("found 25"), "{message}");
        let message = start(InitMethod::Loftq).split(&module(4), &base()).unwrap_err().to_string();
        assert!(message.contains("quantization is off"), "{message}");
    }
}
