//! A graph as an ONNX file: the messages of `onnx.proto` (<https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>), with the
//! numbers that their fields have there.

use half::f16;

use crate::artifacts::pretrained::StoredAs;
use crate::error::Result;
use crate::models::ModelError;
use crate::models::graph::{Attribute, Constant, Graph, Node, Numbers, OPSET, Traced};

use super::metadata::Metadata;
use super::protobuf::Message;

/// The version of the format that came with operators of this age (ONNX 1.12).
const IR_VERSION: i64 = 8;
/// What the first dimension is called, of which there may be any number.
const BATCH: &str = "batch";

/// `TensorProto.DataType`.
const FLOAT: i64 = 1;
const INT64: i64 = 7;
const FLOAT16: i64 = 10;

/// The whole file.
///
/// # Errors
/// A weight that is out of the range of `stored`.
pub(super) fn encode(mut graph: Graph, stored: StoredAs, metadata: &Metadata) -> Result<Message> {
    let mut widened = Vec::new();
    let mut initializers = Vec::with_capacity(graph.constants.len());
    for constant in std::mem::take(&mut graph.constants) {
        let (initializer, node) = tensor(constant, stored)?;
        initializers.push(initializer);
        widened.extend(node);
    }
    let nodes = widened.into_iter().chain(std::mem::take(&mut graph.nodes));
    let body = Message::default()
        .messages(1, nodes.map(|node| self::node(&node)))
        .text(2, "tracknet")
        .messages(5, initializers)
        .messages(11, graph.inputs.iter().map(value))
        .messages(12, graph.outputs.iter().map(value));
    let entry = |(key, value): &(&str, String)| Message::default().text(1, key).text(2, value);
    Ok(Message::default()
        .int(1, IR_VERSION)
        .text(2, "tracknet")
        .text(3, env!("CARGO_PKG_VERSION"))
        .text(6, &metadata.description)
        .message(7, body)
        .message(8, Message::default().text(1, "").int(2, OPSET))
        .messages(14, metadata.entries.iter().map(entry)))
}

/// `TensorProto`; of weights in 16 bits also the node that makes 32 of them, whose result has the constant's name.
fn tensor(constant: Constant, stored: StoredAs) -> Result<(Message, Option<Node>)> {
    let Constant { name, shape, numbers } = constant;
    let dimensions = || Message::default().ints(1, shape.iter().map(|size| *size as i64));
    let whole =
        |data_type: i64, name: &str, bytes: Vec<u8>| dimensions().int(2, data_type).text(8, name).bytes(9, bytes);
    Ok(match numbers {
        Numbers::Ints(numbers) => (whole(INT64, &name, numbers.into_iter().flat_map(i64::to_le_bytes).collect()), None),
        // Vectors and numbers take no room to speak of.
        Numbers::Floats(numbers) if stored == StoredAs::F16 && shape.len() > 1 => {
            let narrow = format!("{name}.float16");
            let bytes = halves(&name, &numbers)?;
            let cast = Node {
                operator: "Cast",
                inputs: vec![narrow.clone()],
                output: name,
                attributes: vec![("to", Attribute::Int(FLOAT))],
            };
            (whole(FLOAT16, &narrow, bytes), Some(cast))
        }
        Numbers::Floats(numbers) => {
            (whole(FLOAT, &name, numbers.into_iter().flat_map(f32::to_le_bytes).collect()), None)
        }
    })
}

fn halves(name: &str, numbers: &[f32]) -> Result<Vec<u8>> {
    let half = |number: &f32| {
        let half = f16::from_f32(*number);
        half.is_finite().then(|| half.to_le_bytes()).ok_or_else(|| {
            let message = format!("holds {number}, which is out of the range of float16; use --dtype float32");
            ModelError::Tensor { name: name.to_owned(), message }.into()
        })
    };
    Ok(numbers.iter().map(half).collect::<Result<Vec<_>>>()?.concat())
}

/// `NodeProto`.
fn node(node: &Node) -> Message {
    let inputs = node.inputs.iter().fold(Message::default(), |message, input| message.text(1, input));
    inputs
        .text(2, &node.output)
        .text(3, &node.output)
        .text(4, node.operator)
        .messages(5, node.attributes.iter().map(|(name, attribute)| self::attribute(name, attribute)))
}

/// `AttributeProto`; field 20 is its type.
fn attribute(name: &str, attribute: &Attribute) -> Message {
    let named = Message::default().text(1, name);
    match attribute {
        Attribute::Float(number) => named.float(2, *number).int(20, 1),
        Attribute::Int(number) => named.int(3, *number).int(20, 2),
        Attribute::Text(text) => named.text(4, text).int(20, 3),
        Attribute::Ints(numbers) => named.ints(8, numbers.iter().copied()).int(20, 7),
    }
}

/// `ValueInfoProto` of 32-bit floats for any number of frames.
fn value(value: &Traced) -> Message {
    let sizes = value.shape.iter().map(|size| Message::default().int(1, *size as i64));
    let dimensions = std::iter::once(Message::default().text(2, BATCH)).chain(sizes);
    let tensor = Message::default().int(1, FLOAT).message(2, Message::default().messages(1, dimensions));
    Message::default().text(1, &value.name).message(2, Message::default().message(1, tensor))
}
