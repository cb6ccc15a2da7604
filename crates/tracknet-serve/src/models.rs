//! The runs that are served, and their adapters by name.
//!
//! Requests look names up in a table of their own, so that none waits while an adapter is being read.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tracknet::inference::{InferenceError, Predictor, Session};

use crate::ServeError;
use crate::options::is_name;
use crate::problem::Problem;

/// The most candidates that a request may ask for.
pub(crate) const MOST_CANDIDATES: usize = 16;

/// A run that is loaded, and the name that requests use for it.
#[derive(Debug)]
pub struct Model {
    name: String,
    session: Mutex<Session>,
    own: Entry,
    adapters: RwLock<BTreeMap<String, Adapter>>,
    /// Size `[W, H]` of the model's input, and how many frames its window has.
    pub(crate) input: ([usize; 2], usize),
}

/// A predictor in the two forms that are asked for; they share their weights.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Finds one place in a frame.
    pub(crate) single: Arc<Predictor>,
    /// Finds several.
    pub(crate) several: Arc<Predictor>,
}

impl Entry {
    fn new(single: Arc<Predictor>) -> Self {
        let several = Arc::new(single.as_ref().clone().with_candidates(MOST_CANDIDATES));
        Self { single, several }
    }
}

#[derive(Debug)]
struct Adapter {
    entry: Entry,
    /// Its name in the session: an adapter that replaces another is loaded beside it.
    session_name: String,
    /// Where it came from, as whoever loaded it wrote that; `None` = the command line.
    path: Option<String>,
}

impl Model {
    /// A run under a name.
    ///
    /// # Errors
    /// A name that no URL can hold.
    pub fn new(name: &str, session: Session) -> Result<Self, ServeError> {
        if !is_name(name) {
            return Err(ServeError::Name(tracknet::console::shown(name)));
        }
        let own = Entry::new(session.predictor(None)?);
        let data = &session.loaded().config.data;
        let input = (data.preprocess.resize, data.sequence.length);
        Ok(Self { name: name.to_owned(), session: Mutex::new(session), own, adapters: RwLock::default(), input })
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Loads an adapter before the server starts.
    ///
    /// # Errors
    /// A name that is taken or that no URL can hold; an adapter that cannot be read or does not fit.
    pub fn load_adapter(&self, name: &str, dir: &Path) -> Result<(), ServeError> {
        if !is_name(name) {
            return Err(ServeError::Name(tracknet::console::shown(name)));
        }
        if self.read().contains_key(name) {
            let taken = InferenceError::AdapterName { name: name.to_owned(), problem: "is taken already" };
            return Err(tracknet::Error::from(taken).into());
        }
        self.load(name, dir, None, usize::MAX)?;
        Ok(())
    }

    /// Loads an adapter, or another one under a name that is taken; whether the name is new. Reads files: not for the threads of
    /// connections.
    ///
    /// # Errors
    /// An adapter that cannot be read or does not fit; the outer error is for more than `most`.
    pub(crate) fn load(&self, name: &str, dir: &Path, path: Option<String>, most: usize) -> tracknet::Result<Loaded> {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, old) = {
            let adapters = self.read();
            let loaded = adapters.values().filter(|adapter| adapter.path.is_some()).count();
            (loaded, adapters.get(name).map(|adapter| adapter.session_name.clone()))
        };
        if old.is_none() && count >= most {
            return Ok(Loaded::TooMany);
        }
        // The other of the two names that an adapter has in turns.
        let session_name = if old.as_deref() == Some(name) { format!("{name} ") } else { name.to_owned() };
        session.load_adapter(&session_name, dir)?;
        let entry = Entry::new(session.predictor(Some(&session_name))?);
        let adapter = Adapter { entry, session_name, path };
        self.adapters.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), adapter);
        match old {
            Some(old) => session.unload_adapter(&old).map(|()| Loaded::Replaced),
            None => Ok(Loaded::New),
        }
    }

    /// Forgets an adapter; requests that have it already go on with it.
    ///
    /// # Errors
    /// 404 for an unknown name.
    pub(crate) fn unload(&self, name: &str) -> Result<(), Problem> {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let removed = self.adapters.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        let removed = removed.ok_or_else(|| self.unknown(name))?;
        session.unload_adapter(&removed.session_name).map_err(Problem::internal)
    }

    /// The predictor with an adapter, or with the run's own.
    ///
    /// # Errors
    /// 404 for an unknown name.
    pub(crate) fn entry(&self, adapter: Option<&str>) -> Result<Entry, Problem> {
        adapter.map_or_else(|| Ok(self.own.clone()), |name| self.adapter(name))
    }

    /// Names and origins of the adapters, sorted by name.
    pub(crate) fn adapters(&self) -> Vec<(String, Option<String>)> {
        self.read().iter().map(|(name, adapter)| (name.clone(), adapter.path.clone())).collect()
    }

    fn adapter(&self, name: &str) -> Result<Entry, Problem> {
        self.read().get(name).map(|adapter| adapter.entry.clone()).ok_or_else(|| self.unknown(name))
    }

    fn unknown(&self, name: &str) -> Problem {
        let name = tracknet::console::shown(name);
        Problem::unknown(format_args!("no adapter of `{}` is called `{name}`; GET /v1/adapters lists them", self.name))
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Adapter>> {
        self.adapters.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of an adapter that was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loaded {
    New,
    Replaced,
    /// It was not: there are as many as may be.
    TooMany,
}

/// The runs; the first is the default.
#[derive(Debug)]
pub(crate) struct Models(Vec<Model>);

impl Models {
    /// # Errors
    /// No model, or two of one name.
    pub(crate) fn new(models: Vec<Model>) -> Result<Self, ServeError> {
        for (index, model) in models.iter().enumerate() {
            if models[..index].iter().any(|other| other.name == model.name) {
                return Err(ServeError::ModelName(model.name.clone()));
            }
        }
        if models.is_empty() { Err(ServeError::NoModel) } else { Ok(Self(models)) }
    }

    /// The model of this name, or the first.
    ///
    /// # Errors
    /// 404 for an unknown name.
    pub(crate) fn get(&self, name: Option<&str>) -> Result<&Model, Problem> {
        let found = self.0.iter().find(|model| name.is_none_or(|name| name == model.name));
        found.ok_or_else(|| {
            let name = tracknet::console::shown(name.unwrap_or_default());
            Problem::unknown(format_args!("no model is called `{name}`; GET /v1/models lists them"))
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Model> {
        self.0.iter()
    }
}
