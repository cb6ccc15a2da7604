//! Files that are something else than their name says, and directories that are something else than a model.

use std::fmt;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde_json::{Map, Value};

use crate::console::{excerpt, listing, shown};
use crate::error::{IoContext, Result};
use crate::files::{FileError, open_regular};
use crate::models::ModelError;

/// Bytes that [`sniff`] looks at.
pub const SNIFFED: usize = 512;

/// What a file is that is no safetensors file and no JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Foreign {
    /// Nothing in it.
    Empty,
    /// Zeros only: a download or copy that was cut off.
    Zeros,
    /// A pointer of Git LFS or git-annex, or of the hub's Xet storage.
    Pointer,
    /// HTML or XML.
    WebPage,
    /// JSON.
    Json,
    /// A compressed file or an archive, by its name.
    Archive(&'static str),
    /// A zip archive, as `torch.save` writes since PyTorch 1.6.
    Zip,
    /// A pickle, as `torch.save` wrote before.
    Pickle,
    /// Weights in the format of another program, by its name.
    Weights(&'static str),
    /// Any other text: its beginning.
    Text(String),
}

impl fmt::Display for Foreign {
    /// What it is and what to do, as the end of a sentence that begins with the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("is empty; copy or download it again"),
            Self::Zeros => f.write_str("holds nothing but zeros, as a copy or download that was cut off; get it again"),
            Self::Pointer => f.write_str(
                "is a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`, or get the model with \
                 `hf download`",
            ),
            Self::WebPage => f.write_str(
                "is a web page that was saved in place of the file: get the model with `hf download`; a gated one needs \
                 that you accept its terms on the hub, and `hf auth login`",
            ),
            Self::Json => f.write_str("is JSON, not weights: was a file saved under the wrong name?"),
            Self::Archive(kind) => write!(f, "is {kind}: unpack it"),
            Self::Zip => write!(f, "is a zip archive, as torch.save writes: {CONVERT}"),
            Self::Pickle => write!(f, "is a pickle, as torch.save wrote: {CONVERT}"),
            Self::Weights(kind) => write!(f, "is {kind}, which is not read here; get the model's safetensors files"),
            Self::Text(start) => write!(f, "is text, not weights; it begins with `{start}`"),
        }
    }
}

/// Pickles can run programs, so they are left to Python.
const CONVERT: &str = "pickles are not read here, because they can run programs; convert it once in Python: \
                       `safetensors.torch.save_file(torch.load(file, weights_only=True), \"model.safetensors\")`";

/// Tells what a file is from its first bytes ([`SNIFFED`] are enough); nothing for what may be a safetensors file, or is
/// not known.
pub fn sniff(start: &[u8]) -> Option<Foreign> {
    const MAGIC: [(&[u8], Foreign); 13] = [
        (b"PK\x03\x04", Foreign::Zip),
        (b"PK\x05\x06", Foreign::Zip),
        (b"\x1f\x8b", Foreign::Archive("compressed with gzip")),
        (b"BZh", Foreign::Archive("compressed with bzip2")),
        (b"\xfd7zXZ\0", Foreign::Archive("compressed with xz")),
        (b"\x28\xb5\x2f\xfd", Foreign::Archive("compressed with zstd")),
        (b"7z\xbc\xaf\x27\x1c", Foreign::Archive("a 7z archive")),
        (b"Rar!", Foreign::Archive("a RAR archive")),
        (b"GGUF", Foreign::Weights("a GGUF file of llama.cpp")),
        (b"\x89HDF\r\n\x1a\n", Foreign::Weights("an HDF5 file of Keras")),
        (b"\x93NUMPY", Foreign::Weights("an array of NumPy")),
        (b"version https://git-lfs", Foreign::Pointer),
        (b"/annex/objects/", Foreign::Pointer),
    ];
    if start.is_empty() {
        return Some(Foreign::Empty);
    }
    if start.len() > 8 && start.iter().all(|byte| *byte == 0) {
        return Some(Foreign::Zeros);
    }
    if let Some((_, found)) = MAGIC.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Some(found.clone());
    }
    if start.get(257..262) == Some(b"ustar") {
        return Some(Foreign::Archive("a tar archive"));
    }
    // The opcode of a pickle's protocol, and its number.
    if let [0x80, 2..=5, next, ..] = start
        && *next != 0
    {
        return Some(Foreign::Pickle);
    }
    // The length of a header that a safetensors file begins with has zeros, and text has none.
    let text = match std::str::from_utf8(start) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() => std::str::from_utf8(&start[..e.valid_up_to()]).unwrap_or_default(),
        Err(_) => return None,
    };
    let text = text.trim_start_matches(|c: char| c == '\u{feff}' || c.is_whitespace());
    if text.is_empty() || text.contains(|c: char| c.is_control() && !c.is_whitespace()) {
        return None;
    }
    Some(match text.chars().next() {
        Some('<') => Foreign::WebPage,
        Some('{' | '[') => Foreign::Json,
        _ => Foreign::Text(shown(&excerpt(text.lines().next().unwrap_or_default(), 60))),
    })
}

/// [`sniff`] of a file.
///
/// # Errors
/// The file cannot be read, or is no regular file.
pub fn sniff_file(path: &Path) -> Result<Option<Foreign>> {
    let mut start = Vec::with_capacity(SNIFFED);
    open_regular(path)?.take(SNIFFED as u64).read_to_end(&mut start).at(path)?;
    Ok(sniff(&start))
}

/// The object in a file of JSON.
///
/// # Errors
/// No JSON, or no object; says what it is instead.
pub(crate) fn parse_object(path: &Path, bytes: &[u8]) -> Result<Map<String, Value>, ModelError> {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let value: Value = serde_json::from_slice(text).map_err(|e| {
        let found = sniff(&bytes[..bytes.len().min(SNIFFED)]);
        match found.filter(|found| !matches!(found, Foreign::Json | Foreign::Text(_))) {
            Some(found) => ModelError::file(path, found.to_string()),
            None => ModelError::file(path, format!("is no JSON: {e}")),
        }
    })?;
    match value {
        Value::Object(map) => Ok(map),
        other => Err(ModelError::file(path, format!("is `{}`, expected a JSON object", shown(&other.to_string())))),
    }
}

/// Whether something stands at `path`; a link to nothing does not count as nothing.
///
/// # Errors
/// The directory may not be searched, or the link leads nowhere.
pub fn is_there(path: &Path) -> Result<bool> {
    match fs::metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => match fs::read_link(path) {
            Ok(target) => {
                let message = format!("is a link to {}, which is not there; get the model again", target.display());
                Err(ModelError::file(path, message).into())
            }
            Err(_) => Ok(false),
        },
        Err(cause) => Err(FileError::Io { path: path.to_path_buf(), cause }.into()),
    }
}

/// What a directory was to hold and does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lacks {
    /// `config.json`.
    Config,
    /// The tensors.
    Weights,
}

/// What a directory is that lacks something of a model, and what to do.
///
/// # Errors
/// The directory cannot be read.
pub(crate) fn describe_directory(dir: &Path, lacks: Lacks) -> Result<ModelError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).at(dir)? {
        names.push(entry.at(dir)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let cut_off = hub_id_of(dir)
        .filter(|_| !names.is_empty())
        .map_or_else(String::new, |id| format!("; if its download was cut off, `hf download {id}` goes on with it"));
    Ok(ModelError::file(dir, describe_names(&names, lacks) + &cut_off))
}

/// As [`describe_directory`], for the sorted names of the files.
pub(super) fn describe_names(names: &[String], lacks: Lacks) -> String {
    whole_directory(names).map_or_else(|| other_files(names, lacks), str::to_owned)
}

/// The hub id of a model whose revision a directory of the hub cache is: `models--ORG--NAME/snapshots/COMMIT`.
fn hub_id_of(dir: &Path) -> Option<String> {
    let snapshots = dir.parent().filter(|parent| parent.ends_with("snapshots"))?;
    let folder = snapshots.parent()?.file_name()?.to_str()?;
    Some(folder.strip_prefix("models--")?.replacen("--", "/", 1))
}

/// What the directory is as a whole, if it is a known one.
fn whole_directory(names: &[String]) -> Option<&'static str> {
    let has = |any: &[&str]| names.iter().any(|found| any.contains(&found.as_str()));
    if has(&["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"]) {
        return Some(
            "is an adapter, not a model: name it in model.lora.adapter, and its base in model.pretrained_model_name",
        );
    }
    if has(&["checkpoints", "state.json"]) {
        return Some(
            "is a run of tracknet or a part of one, not a model: eval, predict and --resume take it as it is; `tracknet \
             export` or `tracknet adapter merge` makes a model of it",
        );
    }
    if has(&["snapshots"]) {
        return Some(
            "is a model's folder in the hub cache: name its hub id (org/name), or a directory below snapshots",
        );
    }
    names.is_empty().then_some("is empty; expected config.json and model.safetensors")
}

/// What is there in place of what is missing.
fn other_files(names: &[String], lacks: Lacks) -> String {
    let ending = |ends: &[&str]| names.iter().find(|name| ends.iter().any(|end| name.ends_with(end))).map(|n| shown(n));
    let missing = match lacks {
        Lacks::Config => "no config.json",
        Lacks::Weights => "neither model.safetensors nor model.safetensors.index.json",
    };
    if lacks == Lacks::Weights {
        if let Some(name) = ending(&[".safetensors"]) {
            return format!("holds {missing}, but {name}: give it the first name, if it is the whole model");
        }
        if let Some(name) = ending(&[".bin", ".pt", ".pth", ".ckpt", ".pkl", ".bin.index.json"]) {
            return format!(
                "holds {name}, a pickle, which is not read, because pickles can run programs; convert it once with \
                 transformers: `AutoModel.from_pretrained(dir).save_pretrained(dir)` writes model.safetensors"
            );
        }
    }
    if let Some(name) = ending(&[".gguf", ".h5", ".msgpack", ".onnx"]) {
        return format!("holds {missing}, but {name}, which is not read here; get the model's safetensors files");
    }
    format!("holds {missing}; it holds {}", listing(names.iter().map(|name| shown(name)), 8))
}
