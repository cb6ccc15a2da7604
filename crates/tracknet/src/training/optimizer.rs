//! AdamW and SGD on named parameters.
//!
//! Burn's update rules are applied to one flat tensor per parameter, with the state kept by *name*: names
//! survive a restart and parameter ids do not, and a parameter that is unfrozen later simply starts with no state.
//! Only trainable parameters ever reach the optimizer.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use burn_optim::{
    AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer, RecordState, Sgd, SgdConfig, SgdState, StateSink,
    StateSource, decay::WeightDecayConfig, momentum::MomentumConfig,
};
use tracknet_kernels::adamw::{AdamWStep, adamw_step};

use crate::artifacts::run::{HostTensor, HostTensors};
use crate::compute::{Compute, DeviceError};
use crate::config::{OptimizerConfig, OptimizerName};
use crate::error::Result;

/// Which part of the model a parameter belongs to, as far as learning rates and decay care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A weight of the backbone.
    Backbone,
    /// An adapter on the backbone.
    Adapter,
    /// Decoder or head.
    Head,
}

/// What the optimizer needs to know of a parameter besides its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterKind {
    /// The part of the model.
    pub part: Part,
    /// Whether it is a bias or belongs to a normalization layer: every tensor of rank 1, as is usual.
    pub bias_or_norm: bool,
}

/// An optimizer with one state per parameter name.
pub struct NamedOptimizer {
    config: OptimizerConfig,
    rules: Rules,
    states: BTreeMap<String, State>,
}

/// The update rule with and without weight decay.
enum Rules {
    AdamW {
        decayed: AdamW,
        plain: AdamW,
    },
    /// AdamW in one pass over the parameter: on a GPU the many operations of the rule are as many launches.
    FusedAdamW,
    Sgd {
        decayed: Sgd,
        plain: Sgd,
    },
}

#[derive(Clone)]
enum State {
    AdamW(Box<AdamWState<1>>),
    Sgd(Box<SgdState<1>>),
}

/// What a step multiplies: the learning rate by the schedule's factor, the gradients by that of the clipping.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepFactors {
    /// Of the learning rate.
    pub lr: f64,
    /// Of the gradients.
    pub gradient: f64,
}

const BETAS: [f32; 2] = [0.9, 0.999];
const EPSILON: f32 = 1e-8;

impl NamedOptimizer {
    /// An optimizer without state for parameters on the device of `compute`. AdamW runs with β = (0.9, 0.999) and ε = 1e−8, as PyTorch's defaults are.
    pub fn new(config: &OptimizerConfig, compute: &Compute) -> Self {
        let rules = match config.name {
            OptimizerName::AdamW if compute.prefers_fused() => Rules::FusedAdamW,
            OptimizerName::AdamW => {
                let [beta_1, beta_2] = BETAS;
                let adamw = AdamWConfig::new().with_beta_1(beta_1).with_beta_2(beta_2).with_epsilon(EPSILON);
                let rule = |decay: f64| adamw.clone().with_weight_decay(decay as f32).build();
                Rules::AdamW { decayed: rule(config.weight_decay), plain: rule(0.0) }
            }
            OptimizerName::Sgd => {
                let momentum = (config.momentum > 0.0)
                    .then(|| MomentumConfig::new().with_momentum(config.momentum).with_dampening(0.0));
                let rule = |decay: f64| {
                    let decay = (decay > 0.0).then(|| WeightDecayConfig::new(decay as f32));
                    SgdConfig::new().with_momentum(momentum.clone()).with_weight_decay(decay).build()
                };
                Rules::Sgd { decayed: rule(config.weight_decay), plain: rule(0.0) }
            }
        };
        Self { config: config.clone(), rules, states: BTreeMap::new() }
    }

    /// The learning rate of a parameter before the schedule's factor.
    pub fn base_lr(&self, kind: ParameterKind) -> f64 {
        match kind.part {
            Part::Backbone | Part::Adapter => self.config.backbone_lr.unwrap_or(self.config.lr),
            Part::Head => self.config.lr,
        }
    }

    /// Whether weight decay acts on a parameter.
    pub fn decays(&self, kind: ParameterKind) -> bool {
        let excluded = (self.config.exclude_bias_and_norm && kind.bias_or_norm)
            || (self.config.exclude_adapters && kind.part == Part::Adapter);
        !excluded
    }

    /// The new value of the parameter `name`. `value` and `gradient` are flat and without autodiff.
    pub fn update(
        &mut self,
        name: &str,
        kind: ParameterKind,
        factors: StepFactors,
        value: Tensor<1>,
        gradient: Tensor<1>,
    ) -> Tensor<1> {
        let lr = self.base_lr(kind) * factors.lr;
        let decays = self.decays(kind);
        let old = self.states.remove(name);
        let old_adamw = |old| if let Some(State::AdamW(s)) = old { Some(*s) } else { None };
        let boxed = |state: AdamWState<1>| State::AdamW(Box::new(state));
        let scaled = |gradient: Tensor<1>| match factors.gradient {
            1.0 => gradient,
            factor => gradient * factor,
        };
        let (value, state) = match &self.rules {
            Rules::AdamW { decayed, plain } => {
                let rule = if decays { decayed } else { plain };
                let (value, state) = rule.step(lr, value, scaled(gradient), old_adamw(old));
                (value, state.map(boxed))
            }
            Rules::FusedAdamW => {
                let weight_decay = if decays { self.config.weight_decay } else { 0.0 };
                // The kernel multiplies the gradient on its way.
                let (value, state) = fused_adamw(lr, weight_decay, factors.gradient, value, gradient, old_adamw(old));
                (value, Some(boxed(state)))
            }
            Rules::Sgd { decayed, plain } => {
                let old = old.and_then(|s| if let State::Sgd(s) = s { Some(*s) } else { None });
                let rule = if decays { decayed } else { plain };
                let (value, state) = rule.step(lr, value, scaled(gradient), old);
                (value, state.map(|s| State::Sgd(Box::new(s))))
            }
        };
        if let Some(state) = state {
            self.states.insert(name.to_owned(), state);
        }
        value
    }

    /// Names that have a state.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.states.keys().map(String::as_str)
    }

    /// Bytes of the state, without the few of the step counts.
    pub fn state_bytes(&self) -> u64 {
        let elements = |state: &State| match state {
            State::AdamW(s) => 2 * s.momentum.moment_1.dims()[0],
            State::Sgd(s) => flatten(s).iter().map(|(_, data)| data.num_elements()).sum(),
        };
        4 * self.states.values().map(|s| elements(s) as u64).sum::<u64>()
    }

    /// The state as named tensors: `<name>.moment_1`, `<name>.moment_2`, `<name>.step` (AdamW) or
    /// `<name>.velocity` (SGD with momentum). Counts are exact up to 2²⁴ steps.
    ///
    /// # Errors
    /// If a tensor cannot be read from the device.
    pub fn to_tensors(&self) -> Result<HostTensors> {
        let mut tensors = HostTensors::new();
        for (name, state) in &self.states {
            let mut put = |leaf: &str, data: TensorData| -> Result<()> {
                let key = format!("{name}.{leaf}");
                let shape = data.shape().to_vec();
                let values = data.try_into_vec::<f32>().map_err(|e| DeviceError::new(&key, e))?;
                tensors.insert(key, HostTensor { shape, values });
                Ok(())
            };
            match state {
                State::AdamW(s) => {
                    put("moment_1", s.momentum.moment_1.to_data())?;
                    put("moment_2", s.momentum.moment_2.to_data())?;
                    put("step", TensorData::new(vec![s.momentum.time as f32], [1]))?;
                }
                State::Sgd(s) => {
                    for (leaf, data) in flatten(s) {
                        put(leaf.rsplit('.').next().unwrap_or("velocity"), data)?;
                    }
                }
            }
        }
        Ok(tensors)
    }

    /// Replaces the state with one that [`to_tensors`](Self::to_tensors) gave. `lengths` are the element counts
    /// of the parameters that may have state.
    ///
    /// # Errors
    /// A sentence that names the tensor which does not fit.
    pub fn load_tensors(
        &mut self,
        tensors: &HostTensors,
        lengths: &BTreeMap<String, usize>,
        device: &Device,
    ) -> Result<(), String> {
        let mut states = BTreeMap::new();
        for key in tensors.keys() {
            let (name, leaf) = key.rsplit_once('.').ok_or_else(|| format!("unexpected tensor `{key}`"))?;
            let length = *lengths.get(name).ok_or_else(|| format!("`{key}`: the model does not train `{name}`"))?;
            let take = |leaf: &str| -> Result<Tensor<1>, String> {
                let key = format!("{name}.{leaf}");
                let t = tensors.get(&key).ok_or_else(|| format!("tensor `{key}` is missing"))?;
                if t.values.len() != length {
                    return Err(format!("`{key}` has {} values, the parameter has {length}", t.values.len()));
                }
                Ok(Tensor::from_data(TensorData::new(t.values.clone(), [length]), device))
            };
            let state = match (self.config.name, leaf) {
                (OptimizerName::AdamW, "step") => {
                    let time = tensors[key].values.first().copied().unwrap_or(0.0) as usize;
                    let momentum = AdaptiveMomentumState::new(time, take("moment_1")?, take("moment_2")?);
                    State::AdamW(Box::new(AdamWState::new(momentum)))
                }
                (OptimizerName::AdamW, "moment_1" | "moment_2") => {
                    // The state is made from all three at the name of the count; here only a missing count is found.
                    let count = format!("{name}.step");
                    if !tensors.contains_key(&count) {
                        return Err(format!("tensor `{count}` is missing"));
                    }
                    continue;
                }
                (OptimizerName::Sgd, "velocity") => State::Sgd(Box::new(with_velocity(take("velocity")?, device)?)),
                _ => return Err(format!("`{key}` is not a state of {:?}", self.config.name)),
            };
            states.insert(name.to_owned(), state);
        }
        self.states = states;
        Ok(())
    }
}

/// Burn's rule in one pass over the parameter.
fn fused_adamw(
    lr: f64,
    weight_decay: f64,
    gradient_factor: f64,
    value: Tensor<1>,
    gradient: Tensor<1>,
    old: Option<AdamWState<1>>,
) -> (Tensor<1>, AdamWState<1>) {
    let (time, moments) = match old {
        Some(AdamWState { momentum, .. }) => (momentum.time + 1, [momentum.moment_1, momentum.moment_2]),
        None => (1, [value.zeros_like(), value.zeros_like()]),
    };
    let step = AdamWStep { lr, betas: BETAS, epsilon: EPSILON, weight_decay, gradient_factor, time: time as i32 };
    let (value, [first, second]) = adamw_step(value, gradient, moments, step);
    (value, AdamWState::new(AdaptiveMomentumState::new(time, first, second)))
}

/// The tensors of an SGD state; its velocity is only reachable through Burn's record of it.
fn flatten(state: &SgdState<1>) -> Vec<(String, TensorData)> {
    let mut sink = StateSink::default();
    state.state_flatten("", &mut sink);
    sink.tensors
}

fn with_velocity(velocity: Tensor<1>, device: &Device) -> Result<SgdState<1>, String> {
    let mut source = StateSource::default();
    source.insert_tensor("momentum.velocity".to_owned(), velocity.into_data());
    SgdState::state_unflatten("", &mut source, device).ok_or_else(|| "SGD state without velocity".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: StepFactors = StepFactors { lr: 1.0, gradient: 1.0 };
    const HEAD: ParameterKind = ParameterKind { part: Part::Head, bias_or_norm: false };

    fn device() -> Device {
        Device::flex()
    }

    fn new_optimizer(config: &OptimizerConfig) -> NamedOptimizer {
        NamedOptimizer::new(config, &Compute::new(&device()))
    }

    fn tensor(values: &[f32]) -> Tensor<1> {
        Tensor::from_data(TensorData::from(values), &device())
    }

    fn values(tensor: Tensor<1>) -> Vec<f32> {
        tensor.try_into_vec_as::<f32>().unwrap()
    }

    fn config(name: OptimizerName) -> OptimizerConfig {
        OptimizerConfig { name, lr: 1e-2, weight_decay: 0.1, ..OptimizerConfig::default() }
    }

    #[test]
    fn adamw_follows_its_paper() {
        let mut optimizer = new_optimizer(&config(OptimizerName::AdamW));
        let (mut x, mut m, mut v) = (1.0f64, 0.0f64, 0.0f64);
        let mut found = tensor(&[1.0]);
        for step in 1..=5 {
            let g = 0.3 * f64::from(step) - 1.0;
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            let (mh, vh) = (m / (1.0 - 0.9f64.powi(step)), v / (1.0 - 0.999f64.powi(step)));
            x = x * (1.0 - 1e-2 * 0.1) - 1e-2 * mh / (vh.sqrt() + 1e-8);
            found = optimizer.update("w", HEAD, ONE, found, tensor(&[g as f32]));
        }
        // Five float32 updates; 1 − 0.999ᵗ in float32 is the largest error, about 1e-4 of a step of 1e-2.
        assert!((f64::from(values(found)[0]) - x).abs() < 5e-6);
    }

    #[test]
    fn sgd_has_momentum_without_dampening() {
        let mut optimizer = new_optimizer(&config(OptimizerName::Sgd));
        let (mut x, mut velocity) = (1.0f32, 0.0f32);
        let mut found = tensor(&[1.0]);
        for g in [0.5f32, -0.25, 1.0] {
            velocity = 0.9 * velocity + (g + 0.1 * x);
            x -= 1e-2 * velocity;
            found = optimizer.update("w", HEAD, ONE, found, tensor(&[g]));
        }
        // Three float32 updates of values near 1.
        assert!((values(found)[0] - x).abs() < 1e-6);
    }

    #[test]
    fn groups_have_their_own_rate_and_decay() {
        let config = OptimizerConfig {
            backbone_lr: Some(1e-3),
            exclude_bias_and_norm: true,
            exclude_adapters: true,
            ..config(OptimizerName::AdamW)
        };
        let optimizer = new_optimizer(&config);
        let adapter = ParameterKind { part: Part::Adapter, bias_or_norm: false };
        let bias = ParameterKind { part: Part::Head, bias_or_norm: true };
        assert_eq!([optimizer.base_lr(adapter), optimizer.base_lr(bias)], [1e-3, 1e-2]);
        assert_eq!([HEAD, adapter, bias].map(|k| optimizer.decays(k)), [true, false, false]);
        // A zero gradient leaves only the decay.
        let mut optimizer = new_optimizer(&config);
        let zero = || tensor(&[0.0]);
        assert_eq!(values(optimizer.update("b", bias, ONE, tensor(&[1.0]), zero())), [1.0]);
        assert!(values(optimizer.update("w", HEAD, ONE, tensor(&[1.0]), zero()))[0] < 1.0);
    }

    #[test]
    fn state_goes_through_tensors_and_continues_bit_equal() {
        let lengths = BTreeMap::from([("w".to_owned(), 2)]);
        for name in [OptimizerName::AdamW, OptimizerName::Sgd] {
            let mut one = new_optimizer(&config(name));
            let mut x = tensor(&[1.0, -2.0]);
            for g in [[0.5, 0.1], [-0.3, 0.7]] {
                x = one.update("w", HEAD, ONE, x, tensor(&g));
            }
            let mut two = new_optimizer(&config(name));
            two.load_tensors(&one.to_tensors().unwrap(), &lengths, &device()).unwrap();
            let step = |o: &mut NamedOptimizer| {
                values(o.update("w", HEAD, StepFactors { lr: 0.5, gradient: 1.0 }, x.clone(), tensor(&[0.2, -0.2])))
            };
            assert_eq!(step(&mut one), step(&mut two));
            assert_eq!(one.to_tensors().unwrap(), two.to_tensors().unwrap());
        }
    }

    #[test]
    fn a_state_that_does_not_fit_is_named() {
        let mut one = new_optimizer(&config(OptimizerName::AdamW));
        one.update("w", HEAD, ONE, tensor(&[1.0, 2.0]), tensor(&[0.1, 0.1]));
        let tensors = one.to_tensors().unwrap();
        let load = |name: OptimizerName, parameter: &str, length, tensors: &HostTensors| {
            let lengths = BTreeMap::from([(parameter.to_owned(), length)]);
            new_optimizer(&config(name)).load_tensors(tensors, &lengths, &device()).unwrap_err()
        };
        assert!(load(OptimizerName::AdamW, "w", 3, &tensors).contains("`w.moment_1` has 2 values"));
        assert!(load(OptimizerName::AdamW, "v", 2, &tensors).contains("does not train `w`"));
        assert!(load(OptimizerName::Sgd, "w", 2, &tensors).contains("not a state of Sgd"));
        let mut cut = tensors.clone();
        cut.remove("w.step");
        assert!(load(OptimizerName::AdamW, "w", 2, &cut).contains("`w.step` is missing"));
    }
}
