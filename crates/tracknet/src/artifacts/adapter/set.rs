//! Several adapters on one base, one of them active.
//!
//! The base is kept as it is, and each adapter as the tensors of its file. Switching puts an adapter on a copy of the
//! base, which shares the base's tensors: the cost is that of the adapter, and nothing has to be undone.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::Result;
use crate::models::ModelError;
use crate::models::lora::VisitLayers;
use crate::models::state::NamedModule;

use super::peft::AdapterFile;
use super::report::AdapterReport;

/// A base model without adapters, and named adapters for it.
#[derive(Debug, Clone)]
pub struct AdapterSet<M> {
    base: M,
    adapters: BTreeMap<String, AdapterFile>,
}

impl<M: NamedModule + VisitLayers> AdapterSet<M> {
    /// A set of no adapters.
    pub fn new(base: M) -> Self {
        Self { base, adapters: BTreeMap::new() }
    }

    /// Adds the adapter of a directory under a name.
    ///
    /// # Errors
    /// A name that is taken, or a directory that cannot be read; an adapter that does not fit the base is found here,
    /// too.
    pub fn add(&mut self, name: &str, dir: &Path) -> Result<AdapterReport> {
        if self.adapters.contains_key(name) {
            return Err(ModelError::file(dir, format!("an adapter is already called `{name}`")).into());
        }
        let file = AdapterFile::read(dir, self.base.module_paths())?;
        let (_, report) = attached(file.clone(), self.base.clone())?;
        self.adapters.insert(name.to_owned(), file);
        Ok(report)
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.adapters.keys().map(String::as_str)
    }

    /// The base with the adapter of this name.
    ///
    /// # Errors
    /// No adapter has the name.
    pub fn with(&self, name: &str) -> Result<M> {
        let Some(file) = self.adapters.get(name) else {
            let known: Vec<&str> = self.names().collect();
            let message = format!("no adapter is called `{name}`; there are: {}", known.join(", "));
            return Err(ModelError::key("adapter", message).into());
        };
        Ok(attached(file.clone(), self.base.clone())?.0)
    }

    /// The base alone.
    pub fn without(&self) -> M {
        self.base.clone()
    }
}

fn attached<M: NamedModule + VisitLayers>(file: AdapterFile, mut base: M) -> Result<(M, AdapterReport)> {
    file.prepare_base(&mut base, None)?;
    file.attach(base)
}
