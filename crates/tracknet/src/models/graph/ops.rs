//! The operations that layers are made of. Axes count the batch: 0 is the batch, 1 the first dimension of a [`Traced`]'s shape.

use std::ops::Range;

use burn::tensor::Tensor;
use burn::tensor::ops::ConvOptions;

use super::{Attribute, Graph, Numbers, Traced};

impl Graph {
    /// `[in, height, width]` → `[out, …]` with a weight `[out, in / groups, height, width]` and a bias `[out]`.
    pub(crate) fn conv(
        &mut self,
        x: &Traced,
        weight: Tensor<4>,
        bias: Option<Tensor<1>>,
        options: &ConvOptions<2>,
    ) -> Traced {
        let [output, _, height, width] = weight.dims();
        let ConvOptions { stride, padding: [(top, bottom), (left, right)], dilation, groups } = *options;
        let along = |axis: usize, padding: usize, kernel: usize| {
            (x.shape[1 + axis] + padding - dilation[axis] * (kernel - 1) - 1) / stride[axis] + 1
        };
        let result = vec![output, along(0, top + bottom, height), along(1, left + right, width)];
        let weight = self.floats("weight", weight);
        let bias = bias.map(|bias| self.floats("bias", bias));
        let inputs: Vec<&str> = [x.name.as_str(), &weight].into_iter().chain(bias.as_deref()).collect();
        let attributes = vec![
            ("kernel_shape", Attribute::Ints(ints(&[height, width]))),
            ("strides", Attribute::Ints(ints(&stride))),
            ("pads", Attribute::Ints(ints(&[top, left, bottom, right]))),
            ("dilations", Attribute::Ints(ints(&dilation))),
            ("group", Attribute::Int(int(groups))),
        ];
        self.node("Conv", &inputs, attributes, result)
    }

    /// `x · weightᵀ + bias` over the last dimension, with a weight `[out, in]` and a bias `[out]`.
    pub(crate) fn linear(&mut self, x: &Traced, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Traced {
        let mut shape = x.shape.clone();
        shape.pop();
        shape.push(weight.dims()[0]);
        let weight = self.floats("weight", weight.transpose());
        let y = self.node("MatMul", &[&x.name, &weight], Vec::new(), shape);
        match bias {
            Some(bias) => self.with_tensor("Add", &y, "bias", bias),
            None => y,
        }
    }

    /// An operation on `x` and a constant that broadcasts over it.
    pub(crate) fn with_tensor<const D: usize>(
        &mut self,
        operator: &'static str,
        x: &Traced,
        name: &str,
        constant: Tensor<D>,
    ) -> Traced {
        let constant = self.floats(name, constant);
        self.with_constant(operator, x, &constant)
    }

    /// An operation on `x` and one number.
    pub(crate) fn with_number(&mut self, operator: &'static str, x: &Traced, number: f32) -> Traced {
        let number = self.number("number", number);
        self.with_constant(operator, x, &number)
    }

    /// An operation on `x` and the constant of this name, which broadcasts over it.
    pub(crate) fn with_constant(&mut self, operator: &'static str, x: &Traced, constant: &str) -> Traced {
        self.node(operator, &[&x.name, constant], Vec::new(), x.shape.clone())
    }

    /// An operation on each number of `x`.
    fn each(&mut self, operator: &'static str, x: &Traced) -> Traced {
        self.node(operator, &[&x.name], Vec::new(), x.shape.clone())
    }

    /// An operation on the numbers at the same places of two values; dimensions of 1 are repeated.
    fn pairwise(&mut self, operator: &'static str, x: &Traced, y: &Traced) -> Traced {
        let shape = x.shape.iter().zip(&y.shape).map(|(a, b)| *a.max(b)).collect();
        self.node(operator, &[&x.name, &y.name], Vec::new(), shape)
    }

    /// `x + y`.
    pub(crate) fn add(&mut self, x: &Traced, y: &Traced) -> Traced {
        self.pairwise("Add", x, y)
    }

    /// `x − y`.
    pub(crate) fn subtract(&mut self, x: &Traced, y: &Traced) -> Traced {
        self.pairwise("Sub", x, y)
    }

    /// `x ∘ y`.
    pub(crate) fn multiply(&mut self, x: &Traced, y: &Traced) -> Traced {
        self.pairwise("Mul", x, y)
    }

    /// `[.., rows, inner] · [.., inner, columns]`.
    pub(crate) fn product(&mut self, x: &Traced, y: &Traced) -> Traced {
        let mut shape = x.shape.clone();
        shape.pop();
        shape.extend(y.shape.last());
        self.node("MatMul", &[&x.name, &y.name], Vec::new(), shape)
    }

    /// `max(x, 0)`.
    pub(crate) fn relu(&mut self, x: &Traced) -> Traced {
        self.each("Relu", x)
    }

    /// `1 / (1 + exp(−x))`.
    pub fn sigmoid(&mut self, x: &Traced) -> Traced {
        self.each("Sigmoid", x)
    }

    /// `x` within 0..1.
    pub fn clamp(&mut self, x: &Traced) -> Traced {
        let (low, high) = (self.number("low", 0.0), self.number("high", 1.0));
        self.node("Clip", &[&x.name, &low, &high], Vec::new(), x.shape.clone())
    }

    /// `x · ½ · (1 + erf(x / √2))`, in the order that onnxruntime recognizes as one operation.
    pub(crate) fn gelu(&mut self, x: &Traced) -> Traced {
        let inner = self.with_number("Div", x, std::f32::consts::SQRT_2);
        let inner = self.each("Erf", &inner);
        self.gate(x, &inner)
    }

    /// `x · ½ · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`.
    pub(crate) fn gelu_tanh(&mut self, x: &Traced) -> Traced {
        let square = self.multiply(x, x);
        let cube = self.multiply(&square, x);
        let scaled = self.with_number("Mul", &cube, 0.044_715);
        let sum = self.add(x, &scaled);
        let inner = self.with_number("Mul", &sum, (2.0 / std::f32::consts::PI).sqrt());
        let inner = self.each("Tanh", &inner);
        self.gate(x, &inner)
    }

    /// `x · ½ · (1 + inner)`.
    fn gate(&mut self, x: &Traced, inner: &Traced) -> Traced {
        let inner = self.with_number("Add", inner, 1.0);
        let gated = self.multiply(x, &inner);
        self.with_number("Mul", &gated, 0.5)
    }

    /// Over the last dimension.
    pub(crate) fn softmax(&mut self, x: &Traced) -> Traced {
        self.node("Softmax", &[&x.name], vec![("axis", Attribute::Int(-1))], x.shape.clone())
    }

    /// Layer normalization over the last dimension.
    pub(crate) fn layer_norm(&mut self, x: &Traced, weight: Tensor<1>, bias: Tensor<1>, epsilon: f32) -> Traced {
        let (weight, bias) = (self.floats("weight", weight), self.floats("bias", bias));
        let attributes = vec![("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(epsilon))];
        self.node("LayerNormalization", &[&x.name, &weight, &bias], attributes, x.shape.clone())
    }

    /// Mean 0 and deviation 1 within each of the rows `[rows, values]` of a frame.
    pub(crate) fn standardize_rows(&mut self, x: &Traced, epsilon: f32) -> Traced {
        let rows = x.shape[0];
        let [scale, shift] = [("scale", 1.0), ("shift", 0.0)].map(|(name, value)| {
            let numbers = Numbers::Floats(vec![value; rows]);
            self.constant(name, vec![rows], numbers)
        });
        let attributes = vec![("epsilon", Attribute::Float(epsilon))];
        self.node("InstanceNormalization", &[&x.name, &scale, &shift], attributes, x.shape.clone())
    }

    /// The same numbers in another shape.
    pub(crate) fn reshape(&mut self, x: &Traced, shape: &[usize]) -> Traced {
        self.reshape_from(0, x, shape)
    }

    /// As [`Graph::reshape`], where the batch takes dimensions in or gives some away.
    pub(crate) fn regroup(&mut self, x: &Traced, shape: &[usize]) -> Traced {
        self.reshape_from(-1, x, shape)
    }

    /// 0 keeps the batch, −1 is what is left for it.
    fn reshape_from(&mut self, batch: i64, x: &Traced, shape: &[usize]) -> Traced {
        let sizes = std::iter::once(batch).chain(ints(shape)).collect();
        let sizes = self.ints("shape", sizes);
        self.node("Reshape", &[&x.name, &sizes], Vec::new(), shape.to_vec())
    }

    /// The axes in another order; the batch stays the first.
    pub(crate) fn transpose(&mut self, x: &Traced, axes: &[usize]) -> Traced {
        let shape = axes.iter().skip(1).map(|axis| x.shape[axis - 1]).collect();
        self.node("Transpose", &[&x.name], vec![("perm", Attribute::Ints(ints(axes)))], shape)
    }

    /// Values side by side along an axis.
    pub(crate) fn concat(&mut self, values: &[&Traced], axis: usize) -> Traced {
        let mut shape = values[0].shape.clone();
        shape[axis - 1] = values.iter().map(|value| value.shape[axis - 1]).sum();
        let names: Vec<&str> = values.iter().map(|value| value.name.as_str()).collect();
        self.node("Concat", &names, vec![("axis", Attribute::Int(int(axis)))], shape)
    }

    /// A part of an axis; nothing where it is the whole.
    pub(crate) fn slice(&mut self, x: &Traced, axis: usize, range: Range<usize>) -> Traced {
        if range == (0..x.shape[axis - 1]) {
            return x.clone();
        }
        let mut shape = x.shape.clone();
        shape[axis - 1] = range.len();
        let [start, end, axes] = [("start", range.start), ("end", range.end), ("axis", axis)]
            .map(|(name, number)| self.ints(name, ints(&[number])));
        self.node("Slice", &[&x.name, &start, &end, &axes], Vec::new(), shape)
    }

    /// `count` zeros before the first place of axis 1, for a value of two dimensions besides the batch.
    pub(crate) fn zeros_before(&mut self, x: &Traced, count: usize) -> Traced {
        let pads = self.ints("pads", ints(&[0, count, 0, 0, 0, 0]));
        self.node("Pad", &[&x.name, &pads], Vec::new(), vec![x.shape[0] + count, x.shape[1]])
    }

    /// Bilinear resize of `[channels, height, width]` to `[height, width]` with half-pixel centres; nothing if it fits.
    pub(crate) fn resize_bilinear(&mut self, x: &Traced, size: [usize; 2]) -> Traced {
        if x.shape[1..] == size {
            return x.clone();
        }
        // Sizes would have to name that of the batch, too.
        let scales = vec![1.0, 1.0, scale(x.shape[1], size[0]), scale(x.shape[2], size[1])];
        let scales = self.constant("scales", vec![4], Numbers::Floats(scales));
        let attributes = vec![
            ("mode", Attribute::Text("linear")),
            ("coordinate_transformation_mode", Attribute::Text("half_pixel")),
        ];
        self.node("Resize", &[&x.name, "", &scales], attributes, vec![x.shape[0], size[0], size[1]])
    }

    /// The places `indices` of an axis.
    pub(crate) fn select(&mut self, x: &Traced, axis: usize, indices: Vec<usize>) -> Traced {
        let mut shape = x.shape.clone();
        shape[axis - 1] = indices.len();
        let indices = self.ints("indices", ints(&indices));
        self.node("Gather", &[&x.name, &indices], vec![("axis", Attribute::Int(int(axis)))], shape)
    }

    /// The mean of each channel of `[channels, height, width]`, `[channels, 1, 1]`.
    pub(crate) fn mean_of_channels(&mut self, x: &Traced) -> Traced {
        self.node("GlobalAveragePool", &[&x.name], Vec::new(), vec![x.shape[0], 1, 1])
    }

    /// The sum over the last dimension, which goes.
    pub(crate) fn sum_last(&mut self, x: &Traced) -> Traced {
        let mut shape = x.shape.clone();
        shape.pop();
        let axes = self.ints("axes", vec![-1]);
        self.node("ReduceSum", &[&x.name, &axes], vec![("keepdims", Attribute::Int(0))], shape)
    }

    /// Features `[channels, height, width]` at places `[rows, columns, 2]`, x and y with −1 and 1 at the edges, bilinear and zero
    /// beyond: `[channels, rows, columns]`.
    pub(crate) fn sample(&mut self, features: &Traced, places: &Traced) -> Traced {
        let attributes = vec![
            ("mode", Attribute::Text("bilinear")),
            ("padding_mode", Attribute::Text("zeros")),
            ("align_corners", Attribute::Int(0)),
        ];
        let shape = vec![features.shape[0], places.shape[0], places.shape[1]];
        self.node("GridSample", &[&features.name, &places.name], attributes, shape)
    }
}

/// The factor that brings `from` cells to `to`, such that `⌊from · factor⌋`, which is what runtimes compute, is `to`.
fn scale(from: usize, to: usize) -> f32 {
    let factor = (to as f64 / from as f64) as f32;
    if f64::from(factor) * (from as f64) < to as f64 { factor.next_up() } else { factor }
}

/// Sizes are far below the limits of both types.
fn int(number: usize) -> i64 {
    number as i64
}

fn ints(numbers: &[usize]) -> Vec<i64> {
    numbers.iter().map(|number| int(*number)).collect()
}

#[cfg(test)]
mod tests {
    use super::scale;

    #[test]
    fn every_size_is_reached_in_either_precision() {
        for from in 1..300 {
            for to in 1..300 {
                let factor = scale(from, to);
                assert_eq!((from as f32 * factor) as usize, to, "{from} {to}");
                assert_eq!((from as f64 * f64::from(factor)) as usize, to, "{from} {to}");
            }
        }
    }
}
