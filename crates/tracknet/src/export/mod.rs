//! Models for other programs: what a run trained, as files that do not need tracknet, each with a model card.
//!
//! | module | what lives there |
//! |---|---|
//! | `onnx` | a graph as an ONNX file |
//! | `protobuf` | the encoding of such files |
//! | `metadata` | what has to be done before and after, as metadata of the file |
//! | `card` | the model card, `README.md` |
//! | `measured` | what the run measured |

mod card;
mod measured;
mod metadata;
mod onnx;
mod protobuf;

use std::io::Write;
use std::path::Path;

use crate::artifacts::LoadedModel;
use crate::artifacts::pretrained::{StoredAs, write_backbone, write_head};
use crate::error::Result;
use crate::evaluation::Activation;
use crate::files::write_atomic;
use crate::models::ModelError;

use card::Card;
use measured::Measured;

/// The file of an ONNX export in its directory.
pub const ONNX_FILE: &str = "model.onnx";
/// The model card, as the Hugging Face hub expects it.
pub const CARD_FILE: &str = "README.md";
/// A program that finds the ball with an ONNX export and Python, without tracknet.
pub const ONNX_EXAMPLE: &str = include_str!("example.py");

/// The longest message of protocol buffers: what a file may hold without a second one beside it.
const MOST_BYTES: u64 = i32::MAX as u64;

/// Writes the whole model as one ONNX file with everything around it in its metadata, and a card: adapters merged, 4-bit weights
/// as the floats that they stand for, scores calibrated and activated. Weights are stored as `stored`, and computed with as 32-bit
/// floats in any case.
///
/// # Errors
/// A weight that is not finite or out of the range of `stored`, a model of more than 2 GiB, a damaged evaluation of the run, or a
/// file that cannot be written.
pub fn write_onnx(dir: &Path, loaded: &LoadedModel, stored: StoredAs) -> Result<()> {
    let (mut graph, logits) = loaded.model.graph(loaded.config.data.preprocess.resize)?;
    let heatmaps = match Activation::from(loaded.config.training.loss.name) {
        Activation::Sigmoid => graph.sigmoid(&logits),
        Activation::Clamp => graph.clamp(&logits),
    };
    graph.output("heatmaps", &heatmaps);
    let file = onnx::encode(graph, stored, &metadata::of(loaded))?;
    let path = dir.join(ONNX_FILE);
    if file.length() > MOST_BYTES {
        let message = format!(
            "would take {} bytes, and an ONNX file holds at most {MOST_BYTES}: with --dtype float16 weights take half as much",
            file.length()
        );
        return Err(ModelError::file(path, message).into());
    }
    write_atomic(path, |out| file.write(out))?;
    write_card(dir, &Card::onnx(loaded, stored, Measured::of(&loaded.checkpoint)?))
}

/// Writes the backbone as a Hugging Face directory with decoder and head beside it, and a card. Adapters are no part of it.
///
/// # Errors
/// A backbone in 4 bits, a damaged evaluation of the run, or a file that cannot be written.
pub fn write_hugging_face(dir: &Path, loaded: &LoadedModel, stored: StoredAs) -> Result<()> {
    write_backbone(dir, &loaded.model.backbone, stored)?;
    write_head(dir, &loaded.model, stored)?;
    write_card(dir, &Card::hugging_face(loaded, stored, Measured::of(&loaded.checkpoint)?))
}

fn write_card(dir: &Path, card: &Card<'_>) -> Result<()> {
    let text = card.to_string();
    Ok(write_atomic(dir.join(CARD_FILE), |out| out.write_all(text.as_bytes()))?)
}
