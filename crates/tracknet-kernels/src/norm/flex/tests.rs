use super::*;

fn values(count: usize, step: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * step) % 1009) as f32 / 500.0 - 1.0).collect()
}

/// What forward and backward should give, from the definition in f64.
struct Expected {
    y: Vec<f64>,
    of_x: Vec<f64>,
    of_weight: Vec<f64>,
    of_bias: Vec<f64>,
}

fn gelu(z: f64) -> [f64; 2] {
    // Φ from the series of the error function.
    let (mut term, mut sum) = (z, 0.0);
    for n in 0..200 {
        sum += term;
        term *= z * z / f64::from(2 * n + 3);
    }
    let density = (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let cumulative = 0.5 + density * sum;
    [z * cumulative, cumulative + z * density]
}

fn activate(activation: FusedActivation, z: f64) -> [f64; 2] {
    match activation {
        FusedActivation::None => [z, 1.0],
        FusedActivation::Gelu => gelu(z),
        FusedActivation::Relu => [z.max(0.0), f64::from(u8::from(z > 0.0))],
    }
}

fn expected(
    [x, weight, bias, gradient]: [&[f32]; 4],
    [batch, channels, space]: [usize; 3],
    spec: NormSpec,
) -> Expected {
    let size = channels / spec.groups * space;
    let (mut y, mut of_x) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    let (mut of_weight, mut of_bias) = (vec![0.0; channels], vec![0.0; channels]);
    for group in 0..batch * spec.groups {
        let places = group * size..(group + 1) * size;
        let channel = |at: usize| at / space % channels;
        let wide = |at: usize| f64::from(x[at]);
        let mean = places.clone().map(wide).sum::<f64>() / size as f64;
        let variance = places.clone().map(|at| (wide(at) - mean).powi(2)).sum::<f64>() / size as f64;
        let deviation = (variance + f64::from(spec.epsilon)).sqrt();
        let normal = |at: usize| (wide(at) - mean) / deviation;
        let mut scaled = vec![0.0; size];
        for at in places.clone() {
            let w = f64::from(weight[channel(at)]);
            let [value, slope] = activate(spec.activation, normal(at) * w + f64::from(bias[channel(at)]));
            let g = f64::from(gradient[at]) * slope;
            y[at] = value;
            of_weight[channel(at)] += g * normal(at);
            of_bias[channel(at)] += g;
            scaled[at - places.start] = g * w;
        }
        let level = scaled.iter().sum::<f64>() / size as f64;
        let slant = places.clone().map(|at| scaled[at - places.start] * normal(at)).sum::<f64>() / size as f64;
        for at in places.clone() {
            of_x[at] = (scaled[at - places.start] - level - normal(at) * slant) / deviation;
        }
    }
    Expected { y, of_x, of_weight, of_bias }
}

fn assert_close(found: &FlexTensor, expected: &[f64], tolerance: f64, what: &str) {
    tracknet_testing::assert_close_above(slice(found), expected, tolerance, 1.0, what);
}

/// Rows and maps; widths around a block, single values, odd sizes, more rows than a task has.
const SHAPES: [([usize; 3], usize); 14] = [
    ([1, 1, 1], 1),
    ([3, 5, 1], 1),
    ([2, 16, 1], 1),
    ([75, 17, 1], 1),
    ([33, 33, 1], 1),
    ([5, 259, 1], 1),
    ([3, 6, 1], 2),
    ([1, 3, 5], 1),
    ([2, 4, 3], 2),
    ([2, 6, 17], 3),
    ([1, 4, 16], 4),
    ([3, 2, 33], 2),
    ([2, 3, 131], 1),
    ([1, 8, 1000], 4),
];

fn each_case(mut check: impl FnMut([FlexTensor; 4], [usize; 3], NormSpec, &Expected, &str)) {
    for (shape, groups) in SHAPES {
        for activation in [FusedActivation::None, FusedActivation::Gelu, FusedActivation::Relu] {
            let spec = NormSpec { groups, epsilon: 1e-5, activation };
            let [count, channels] = [shape.iter().product(), shape[1]];
            let parts = [values(count, 7919), values(channels, 613), values(channels, 37), values(count, 7877)];
            let expected = expected(parts.each_ref().map(Vec::as_slice), shape, spec);
            let [x, weight, bias, gradient] = parts;
            let parts =
                [tensor(x, shape), tensor(weight, [channels]), tensor(bias, [channels]), tensor(gradient, shape)];
            check(parts, shape, spec, &expected, &format!("{shape:?} {spec:?}"));
        }
    }
}

#[test]
fn every_instruction_set_agrees_with_the_definition_in_float64() {
    each_case(|[x, weight, bias, gradient], _, spec, expected, what| {
        for level in Level::available() {
            let what = format!("{level:?} {what}");
            let (y, statistics) = forward(level, [x.clone(), weight.clone(), bias.clone()], spec);
            // Sums of at most 2000 values in f32, and the error of Φ.
            assert_close(&y, &expected.y, 3e-6, &what);
            let tensors = [x.clone(), weight.clone(), bias.clone(), statistics, gradient.clone()];
            let (of_x, of_weight, of_bias) = backward(level, tensors.clone(), spec, true);
            assert_close(&of_x, &expected.of_x, 1e-5, &what);
            assert_close(&of_weight.unwrap(), &expected.of_weight, 1e-5, &what);
            assert_close(&of_bias.unwrap(), &expected.of_bias, 1e-5, &what);
            let (alone, of_weight, of_bias) = backward(level, tensors, spec, false);
            assert!(of_weight.is_none() && of_bias.is_none() && slice(&alone) == slice(&of_x), "{what}");
        }
    });
}

#[test]
fn the_composed_operations_agree_with_the_definition_in_float64() {
    each_case(|[x, weight, bias, gradient], _, spec, expected, what| {
        let (y, statistics) = reference::normalize::<Flex>(x.clone(), weight.clone(), bias.clone(), spec);
        assert_close(&contiguous(y), &expected.y, 3e-6, what);
        let tensors = [x, weight, bias, statistics, gradient];
        let (of_x, of_weight, of_bias) = reference::gradients::<Flex>(tensors, spec, true);
        assert_close(&contiguous(of_x), &expected.of_x, 1e-5, what);
        assert_close(&contiguous(of_weight.unwrap()), &expected.of_weight, 1e-5, what);
        assert_close(&contiguous(of_bias.unwrap()), &expected.of_bias, 1e-5, what);
    });
}

#[test]
fn a_mean_far_from_zero_keeps_the_variance() {
    // Steps of 1/16 on 4096: exact in f32, while sums of squares would leave nothing of them.
    let shape = [2, 300, 1];
    let x: Vec<f32> = (0..600).map(|i| 4096.0 + ((i * 7) % 32) as f32 / 16.0).collect();
    let (weight, bias, gradient) = (vec![1.0; 300], vec![0.0; 300], vec![1.0; 600]);
    let spec = NormSpec { groups: 1, epsilon: 1e-5, activation: FusedActivation::None };
    let expected = expected([&x, &weight, &bias, &gradient], shape, spec);
    let tensors = [tensor(x, shape), tensor(weight, [300]), tensor(bias, [300])];
    for level in Level::available() {
        // The mean is rounded to 1/2048 of a step's unit: 2.4e-4 of a value in units of the deviation, 0.58.
        assert_close(&forward(level, tensors.clone(), spec).0, &expected.y, 5e-4, &format!("{level:?}"));
    }
}

#[test]
fn constant_values_give_the_bias_and_not_a_number_stays_in_its_group() {
    let spec = NormSpec { groups: 2, epsilon: 1e-5, activation: FusedActivation::Relu };
    let mut x = vec![3.5; 4 * 20];
    x[5] = f32::NAN;
    let tensors = [tensor(x, [1, 4, 20]), tensor(vec![2.0; 4], [4]), tensor(vec![0.25; 4], [4])];
    for level in Level::available() {
        let (y, _) = forward(level, tensors.clone(), spec);
        assert!(slice(&y)[..40].iter().all(|value| value.is_nan()), "{level:?}");
        assert!(slice(&y)[40..].iter().all(|value| *value == 0.25), "{level:?}");
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for (shape, groups) in [([301, 131, 1], 1), ([3, 6, 2111], 3)] {
        let spec = NormSpec { groups, epsilon: 1e-6, activation: FusedActivation::Gelu };
        let count = shape.iter().product();
        let [x, gradient] = [7919, 7877].map(|step| tensor(values(count, step), shape));
        let [weight, bias] = [613, 37].map(|step| tensor(values(shape[1], step), [shape[1]]));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (y, statistics) = forward(Level::best(), [x.clone(), weight.clone(), bias.clone()], spec);
                let tensors = [x.clone(), weight.clone(), bias.clone(), statistics, gradient.clone()];
                let (of_x, of_weight, of_bias) = backward(Level::best(), tensors, spec, true);
                [y, of_x, of_weight.unwrap(), of_bias.unwrap()]
                    .map(|tensor| slice(&tensor).iter().map(|v| v.to_bits()).collect::<Vec<_>>())
            })
        };
        assert_eq!(run(1), run(3));
    }
}
