//! A model for inference as a graph of standard operations: those of ONNX, opset 17
//! (<https://onnx.ai/onnx/operators/>), so that another runtime can compute what
//! [`HeatmapModel::forward`](super::HeatmapModel::forward) computes.
//!
//! Every layer says beside its `forward` how it is computed, in a method `trace` that adds nodes to a [`Graph`] and returns the
//! [`Traced`] that they give. Backbones and decoders must have one: it is a method of their traits, without a default. A graph is
//! of frames of one size, and of any number of them: shapes are those of one frame, and the first dimension of every value is
//! the batch. How a graph becomes a file is none of its business.

mod ops;

use std::collections::BTreeSet;
use std::fmt::Display;

use burn::tensor::Tensor;

/// The version of the operators.
pub const OPSET: i64 = 17;

/// Operations on the frames that a model is given, in an order in which they can be computed.
#[derive(Debug, Default)]
pub struct Graph {
    /// What is given: one value, so far.
    pub inputs: Vec<Traced>,
    /// What is computed.
    pub nodes: Vec<Node>,
    /// What is known beforehand: weights, tables, sizes.
    pub constants: Vec<Constant>,
    /// What is asked for.
    pub outputs: Vec<Traced>,
    /// The module whose nodes are added now.
    path: Vec<String>,
    names: BTreeSet<String>,
}

/// Numbers that are computed or given, 32-bit floats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traced {
    /// Its name, which no other value or constant of the graph has.
    pub name: String,
    /// All dimensions but the first, which is the batch (or a whole multiple of it).
    pub shape: Vec<usize>,
}

/// An operation.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What it computes.
    pub operator: &'static str,
    /// Names of values and constants; an empty one stands for an optional input that is not given.
    pub inputs: Vec<String>,
    /// The name of the value that it gives, and its own.
    pub output: String,
    /// What else decides what it computes.
    pub attributes: Vec<(&'static str, Attribute)>,
}

/// A setting of an operation.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// A whole number.
    Int(i64),
    /// Whole numbers.
    Ints(Vec<i64>),
    /// A number.
    Float(f32),
    /// A word.
    Text(&'static str),
}

/// Numbers that are known beforehand.
#[derive(Debug, Clone, PartialEq)]
pub struct Constant {
    /// Its name, which no other value or constant of the graph has.
    pub name: String,
    /// All dimensions; none of a single number.
    pub shape: Vec<usize>,
    /// Row-major.
    pub numbers: Numbers,
}

/// The numbers of a [`Constant`].
#[derive(Debug, Clone, PartialEq)]
pub enum Numbers {
    /// Weights and tables.
    Floats(Vec<f32>),
    /// Sizes and indices.
    Ints(Vec<i64>),
}

impl Graph {
    /// A value that is given, of this shape for each frame or window.
    pub fn input(&mut self, name: &str, shape: Vec<usize>) -> Traced {
        let value = Traced { name: self.unused(name.to_owned()), shape };
        self.inputs.push(value.clone());
        value
    }

    /// Asks for a value under this name.
    pub fn output(&mut self, name: &str, value: &Traced) {
        let output = Traced { name: self.unused(name.to_owned()), shape: value.shape.clone() };
        self.nodes.push(Node {
            operator: "Identity",
            inputs: vec![value.name.clone()],
            output: output.name.clone(),
            attributes: Vec::new(),
        });
        self.outputs.push(output);
    }

    /// Adds what `trace` adds, named as parts of the module `name`.
    pub fn within<T>(&mut self, name: impl Display, trace: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(name.to_string());
        let traced = trace(self);
        self.path.pop();
        traced
    }

    /// An operation that gives a value of this shape.
    pub(crate) fn node(
        &mut self,
        operator: &'static str,
        inputs: &[&str],
        attributes: Vec<(&'static str, Attribute)>,
        shape: Vec<usize>,
    ) -> Traced {
        let output = self.named(operator);
        let inputs = inputs.iter().map(|input| (*input).to_owned()).collect();
        self.nodes.push(Node { operator, inputs, output: output.clone(), attributes });
        Traced { name: output, shape }
    }

    /// The values of a parameter or table; returns the name.
    pub(crate) fn floats<const D: usize>(&mut self, name: &str, tensor: Tensor<D>) -> String {
        let data = tensor.into_data().convert::<f32>();
        let shape = data.shape().to_vec();
        self.constant(name, shape, Numbers::Floats(data.iter::<f32>().collect()))
    }

    /// One number; returns the name.
    pub(crate) fn number(&mut self, name: &str, number: f32) -> String {
        self.constant(name, Vec::new(), Numbers::Floats(vec![number]))
    }

    /// Sizes or indices; returns the name.
    pub(crate) fn ints(&mut self, name: &str, numbers: Vec<i64>) -> String {
        self.constant(name, vec![numbers.len()], Numbers::Ints(numbers))
    }

    /// Numbers of this shape; returns the name.
    pub(crate) fn constant(&mut self, name: &str, shape: Vec<usize>, numbers: Numbers) -> String {
        let name = self.named(name);
        self.constants.push(Constant { name: name.clone(), shape, numbers });
        name
    }

    /// A name below the module whose nodes are added now.
    fn named(&mut self, name: &str) -> String {
        let path = self.path.iter().map(String::as_str).chain([name]);
        let name = path.collect::<Vec<_>>().join(".");
        self.unused(name)
    }

    /// `name`, or the first of `name_2`, `name_3`, … that nothing has.
    fn unused(&mut self, name: String) -> String {
        let mut unused = name.clone();
        let mut number = 2;
        while !self.names.insert(unused.clone()) {
            unused = format!("{name}_{number}");
            number += 1;
        }
        unused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_modules_and_none_is_there_twice() {
        let mut graph = Graph::default();
        let x = graph.input("frames", vec![3]);
        let y = graph.within("decoder", |graph| {
            graph.within(0, |graph| graph.relu(&x));
            graph.within(0, |graph| graph.relu(&x))
        });
        graph.output("frames", &y);
        let names: Vec<&str> = graph.nodes.iter().map(|node| node.output.as_str()).collect();
        assert_eq!(names, ["decoder.0.Relu", "decoder.0.Relu_2", "frames_2"]);
        assert_eq!(graph.nodes[2].inputs, ["decoder.0.Relu_2"]);
    }
}
