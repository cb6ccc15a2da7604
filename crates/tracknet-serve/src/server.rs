//! A server from its address to its end.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::Semaphore;
use tracknet::inference::Predictor;

use crate::batcher::Batcher;
use crate::log::Log;
use crate::metrics::{Gauges, Metrics};
use crate::models::{Model, Models};
use crate::options::Options;
use crate::{ServeError, connections, routes};

/// Threads of connections; all they do is wait, and pass bytes on.
const THREADS: usize = 2;
/// Threads that decode pictures, draw, and read adapters.
const WORKERS: usize = 8;
/// Kibibytes of bodies, and of decoded pictures, that are held at once: no less than the largest ones need.
const HELD: u64 = 256 << 10;

/// What all requests share.
pub(crate) struct State {
    pub(crate) options: Options,
    pub(crate) models: Models,
    pub(crate) batcher: Batcher<Predictor>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) log: Log,
    /// Folders of adapters, as the file system calls them.
    pub(crate) adapter_folders: Vec<PathBuf>,
    /// Pictures that wait or are being searched.
    pub(crate) queue: Arc<Semaphore>,
    pub(crate) videos: Arc<Semaphore>,
    pub(crate) connections: Arc<Semaphore>,
    /// Kibibytes of bodies with pictures.
    pub(crate) bodies: Budget,
    /// Kibibytes of decoded pictures.
    pub(crate) pixels: Budget,
    /// Where videos are while they are searched.
    pub(crate) folder: TempDir,
    /// Set when the server leaves.
    pub(crate) stopping: AtomicBool,
    /// Set when videos have to end.
    pub(crate) cut: Arc<AtomicBool>,
}

/// Memory that many share.
pub(crate) struct Budget {
    kibibytes: u32,
    free: Arc<Semaphore>,
}

impl Budget {
    /// At least `HELD`, and twice the largest that anybody will ask for.
    fn new(largest: u64) -> Self {
        let kibibytes = u32::try_from(HELD.max(2 * (largest >> 10))).unwrap_or(u32::MAX);
        let kibibytes = kibibytes.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        Self { kibibytes, free: Arc::new(Semaphore::new(kibibytes as usize)) }
    }

    /// Waits until so many bytes are free, and takes them.
    pub(crate) async fn take(&self, bytes: u64) -> Option<tokio::sync::OwnedSemaphorePermit> {
        let kibibytes = u32::try_from((bytes >> 10) + 1).unwrap_or(u32::MAX).min(self.kibibytes);
        Arc::clone(&self.free).acquire_many_owned(kibibytes).await.ok()
    }
}

impl State {
    /// What is measured at the moment.
    pub(crate) fn gauges(&self) -> Gauges {
        let used = |most: usize, places: &Semaphore| most.max(1).saturating_sub(places.available_permits());
        let limits = &self.options.limits;
        Gauges {
            queue: used(limits.queue, &self.queue),
            videos: used(limits.videos, &self.videos),
            connections: self.open_connections(),
            models: self.models.iter().map(|model| (model.name().to_owned(), model.adapters().len())).collect(),
        }
    }
}

/// A server that has its address and does not answer yet.
pub struct Server {
    listener: TcpListener,
    options: Options,
    adapter_folders: Vec<PathBuf>,
}

impl Server {
    /// Takes the address, so that models are loaded only where they can be served.
    ///
    /// # Errors
    /// An address that cannot be had, or that others reach without a token; a folder of adapters that does not exist.
    pub fn bind(options: Options) -> Result<Self, ServeError> {
        options.check()?;
        let folder = |path: &PathBuf| {
            let path = path.clone();
            path.canonicalize().map_err(|cause| ServeError::Folder { path, cause })
        };
        let adapter_folders = options.adapter_folders.iter().map(folder).collect::<Result<_, _>>()?;
        let address = options.address;
        let listener = TcpListener::bind(address).map_err(|cause| ServeError::Listen { address, cause })?;
        Ok(Self { listener, options, adapter_folders })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn address(&self) -> Result<SocketAddr, ServeError> {
        Ok(self.listener.local_addr()?)
    }

    /// Serves until `stop` is set, and then until everything that was accepted is answered. Returns whether every connection came
    /// to its end.
    ///
    /// # Errors
    /// No models, or two of one name; threads or temporary files that cannot be had.
    pub fn run(self, models: Vec<Model>, stop: Arc<AtomicBool>) -> Result<bool, ServeError> {
        let limits = self.options.limits;
        let metrics = Arc::new(Metrics::new());
        let state = Arc::new(State {
            models: Models::new(models)?,
            batcher: Batcher::start(limits.batch, Arc::clone(&metrics))?,
            metrics,
            log: Log::start(self.options.quiet)?,
            adapter_folders: self.adapter_folders,
            queue: connections::places(limits.queue),
            videos: connections::places(limits.videos),
            connections: connections::places(limits.connections),
            bodies: Budget::new(limits.body),
            pixels: Budget::new(3 * limits.pixels),
            folder: tempfile::Builder::new().prefix("tracknet-serve-").tempdir()?,
            stopping: AtomicBool::new(false),
            cut: Arc::default(),
            options: self.options,
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("serve")
            .worker_threads(THREADS)
            .max_blocking_threads(WORKERS)
            .enable_io()
            .enable_time()
            .build()?;
        self.listener.set_nonblocking(true)?;
        let router = routes::router(&state);
        let whole = runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(self.listener)?;
            Ok::<_, std::io::Error>(connections::serve(listener, router, Arc::clone(&state), stop).await)
        })?;
        state.cut.store(true, Ordering::SeqCst);
        runtime.shutdown_timeout(Duration::from_secs(1));
        Ok(whole)
    }
}
