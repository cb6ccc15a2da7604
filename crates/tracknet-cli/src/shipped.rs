//! The backbone and detector that the binary carries, so that it works from any directory.

use std::io::Write;
use std::path::Path;

use tracknet::Result;
use tracknet::files::{Destination, write_atomic};

/// Name of the shipped model's directory.
pub(crate) const NAME: &str = "vit-tiny-tennis";

/// The files of `assets/vit-tiny-tennis`, in Hugging Face layout plus the decoder and head.
const FILES: [(&str, &[u8]); 5] = [
    ("config.json", include_bytes!("../../../assets/vit-tiny-tennis/config.json")),
    ("model.safetensors", include_bytes!("../../../assets/vit-tiny-tennis/model.safetensors")),
    ("preprocessor_config.json", include_bytes!("../../../assets/vit-tiny-tennis/preprocessor_config.json")),
    ("tracknet_head.safetensors", include_bytes!("../../../assets/vit-tiny-tennis/tracknet_head.safetensors")),
    ("README.md", include_bytes!("../../../assets/vit-tiny-tennis/README.md")),
];

/// Writes the shipped model as a directory that `model.pretrained_model_name` can name.
pub(crate) fn unpack(dir: &Path) -> Result<()> {
    Destination::new_directory(dir).write(|temporary| -> Result<()> {
        for (name, bytes) in FILES {
            write_atomic(temporary.join(name), |w| w.write_all(bytes))?;
        }
        Ok(())
    })?;
    Ok(())
}
