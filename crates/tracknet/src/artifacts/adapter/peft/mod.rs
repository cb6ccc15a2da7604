//! Adapter directories as Hugging Face PEFT writes and reads them: `adapter_config.json` and
//! `adapter_model.safetensors`.
//!
//! | module | what lives there |
//! |---|---|
//! | `read` | a directory as tensors by module: [`AdapterFile`] |
//! | `attach` | from there to a model |
//! | `write` | from a model to a directory |
//! | `parts` | the tensors of one module, as PEFT and as models have them |

mod attach;
mod parts;
mod read;
mod write;

use std::path::Path;

pub(crate) use attach::Beside;
pub use attach::load_adapter;
pub(super) use parts::Parts;
pub(crate) use parts::as_rows;
pub use read::AdapterFile;
pub(crate) use write::adapter_tensors;
pub use write::write_adapter;

use super::peft_config::CONFIG_FILE;

/// The tensors of an adapter directory.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// What PEFT writes instead of [`WEIGHTS_FILE`] without `safe_serialization`, and wrote before release 0.7.
const PICKLE_FILE: &str = "adapter_model.bin";

/// What PEFT puts before every name.
pub(crate) const PREFIX: &str = "base_model.model.";

/// How the names of the parts of an adapted module end.
const ENDS: [&str; 3] = [".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"];

/// Names that are listed in an error or note.
const NAMES_SHOWN: usize = 8;

/// What a directory without an adapter's configuration is, where that can be told, and what to do.
pub(crate) fn what_is_there(dir: &Path) -> Option<String> {
    let has = |name: &str| dir.join(name).is_file();
    if has(CONFIG_FILE) {
        return None;
    }
    let expected = format!("an adapter is a directory with {CONFIG_FILE} and {WEIGHTS_FILE}");
    if dir.is_file() {
        return Some(format!("is a file; {expected}"));
    }
    if let Some(found) = [WEIGHTS_FILE, PICKLE_FILE].into_iter().find(|name| has(name)) {
        return Some(format!("holds {found} without {CONFIG_FILE}, which says ranks and scales: copy that, too"));
    }
    if dir.join("adapter").join(CONFIG_FILE).is_file() {
        return Some(format!("is no adapter but holds one: give {}", dir.join("adapter").display()));
    }
    if dir.join("checkpoints").is_dir() {
        return Some(
            "is a run, no adapter; its adapters are checkpoints/best/adapter and checkpoints/last/adapter".to_owned(),
        );
    }
    if has("config.json") {
        return Some(format!("is a model, no adapter; {expected}. A model is given as the base"));
    }
    dir.is_dir().then(|| format!("holds no {CONFIG_FILE}; {expected}"))
}
