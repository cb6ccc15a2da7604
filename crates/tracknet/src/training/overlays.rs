use std::path::Path;
use crate::datasets::Batch;
use crate::error::Result;
pub(super) fn write_overlays(_: &Batch, _: &[f32], _: &Path, _: &Path) -> Result<()> { Ok(()) }
