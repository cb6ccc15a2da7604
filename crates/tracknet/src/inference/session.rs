//! A trained run that stays loaded, with any number of adapters on its base: each costs its own weights and no more.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;

use crate::artifacts::{AdapterChoice, LoadedModel, load_model_for_inference, load_model_with_adapter};
use crate::console::shown;
use crate::error::Result;
use crate::models::Backbone;

use super::{InferenceError, Predictor};

/// A run, and adapters by name that share its base. A prediction asks for a [`Predictor`] by the name of an adapter; nothing is
/// loaded again for it, and predictions with different adapters may go on side by side.
#[derive(Debug)]
pub struct Session {
    run: PathBuf,
    base: Option<String>,
    device: Device,
    own: LoadedModel,
    /// The run's backbone without adapters; made when another adapter is asked for.
    bare: Option<Backbone>,
    /// With the run's own adapter.
    predictor: Arc<Predictor>,
    others: BTreeMap<String, Arc<Predictor>>,
}

impl Session {
    /// Opens a run or one of its checkpoints; `base` says where its frozen backbone is now, if it was moved.
    ///
    /// # Errors
    /// As [`load_model_for_inference`].
    pub fn open(run: &Path, base: Option<&str>, device: &Device) -> Result<Self> {
        let own = load_model_for_inference(run, base, device)?;
        let predictor = Arc::new(Predictor::new(&own.model, &own.build, &own.config, device));
        let (run, base, device) = (run.to_path_buf(), base.map(str::to_owned), device.clone());
        Ok(Self { run, base, device, own, bare: None, predictor, others: BTreeMap::new() })
    }

    /// The run as it was loaded.
    pub fn loaded(&self) -> &LoadedModel {
        &self.own
    }

    /// The names of the adapters beside the run's own, sorted.
    pub fn adapters(&self) -> impl Iterator<Item = &str> {
        self.others.keys().map(String::as_str)
    }

    /// Adds the adapter of a directory under a name. A decoder and head in the directory go with it.
    ///
    /// # Errors
    /// A name that is taken; an adapter that cannot be read or does not fit; a run whose backbone itself trained.
    pub fn load_adapter(&mut self, name: &str, dir: &Path) -> Result<()> {
        if name.is_empty() || self.others.contains_key(name) {
            return Err(InferenceError::AdapterName { name: shown(name), problem: "is taken already" }.into());
        }
        let predictor = self.with_adapter(dir)?;
        self.others.insert(name.to_owned(), Arc::new(predictor));
        Ok(())
    }

    /// Forgets an adapter; predictions with it that go on keep it until they end.
    ///
    /// # Errors
    /// No adapter has the name.
    pub fn unload_adapter(&mut self, name: &str) -> Result<()> {
        self.others.remove(name).map(drop).ok_or_else(|| self.unknown(name))
    }

    /// The model with an adapter, `None` being what was trained in the run.
    ///
    /// # Errors
    /// No adapter has the name.
    pub fn predictor(&self, adapter: Option<&str>) -> Result<Arc<Predictor>> {
        match adapter {
            None => Ok(Arc::clone(&self.predictor)),
            Some(name) => self.others.get(name).cloned().ok_or_else(|| self.unknown(name)),
        }
    }

    fn with_adapter(&mut self, dir: &Path) -> Result<Predictor> {
        let anew =
            |choice: &AdapterChoice| load_model_with_adapter(&self.run, self.base.as_deref(), choice, &self.device);
        if self.own.checkpoint.backbone_dir().is_none() {
            let bare = match &self.bare {
                Some(bare) => bare,
                None => {
                    let bare = match self.own.bare_backbone() {
                        Some(bare) => bare,
                        None => anew(&AdapterChoice::None)?.model.backbone,
                    };
                    self.bare.insert(bare)
                }
            };
            if let Some(model) = self.own.with_adapter(bare, dir)? {
                return Ok(Predictor::new(&model, &self.own.build, &self.own.config, &self.device));
            }
        }
        // An adapter with a base of its own; of a run whose backbone trained this says that there is no other adapter for it.
        let loaded = anew(&AdapterChoice::Directory(dir.to_path_buf()))?;
        Ok(Predictor::new(&loaded.model, &loaded.build, &loaded.config, &self.device))
    }

    fn unknown(&self, name: &str) -> crate::error::Error {
        let known = self.adapters().collect::<Vec<_>>().join(", ");
        InferenceError::UnknownAdapter { name: shown(name), known }.into()
    }
}
