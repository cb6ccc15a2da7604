//! Connections: accepted within a limit, served, and ended without losing a request.
//!
//! A stop goes on in this order: what the system has accepted already is taken, nothing new comes; requests that are on their way
//! are read; every connection ends with the answer at hand. Videos that are not through when the grace is over are cut.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

use crate::patience::Patient;
use crate::server::State;

/// How often the flag of a stop is looked at.
const TICK: Duration = Duration::from_millis(50);
/// How long a connection that is open when a stop comes may still deliver a request that was sent before.
const ON_THE_WAY: Duration = Duration::from_millis(200);
/// How long cut videos have for their last line.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// The longest that the head of a request may take, and a connection may be idle.
const HEAD: Duration = Duration::from_secs(20);
/// The most bytes of the head of a request.
const HEAD_BYTES: usize = 32 << 10;

/// Serves until `stop` is set and everything that was accepted is answered; whether every connection came to its end.
pub(crate) async fn serve(listener: TcpListener, router: Router, state: Arc<State>, stop: Arc<AtomicBool>) -> bool {
    let (leave, leaving) = watch::channel(false);
    let most = u32::try_from(state.options.limits.connections).unwrap_or(u32::MAX).max(1);
    let spawn = |stream, permit| {
        let patience = state.options.limits.timeout;
        tokio::spawn(connection(stream, permit, router.clone(), leaving.clone(), patience));
    };
    while !stop.load(Ordering::SeqCst) {
        let Ok(Ok(permit)) = timeout(TICK, Arc::clone(&state.connections).acquire_owned()).await else { continue };
        match timeout(TICK, listener.accept()).await {
            Ok(Ok((stream, _))) => spawn(stream, permit),
            // Too many open files, or a peer that left: the next may do better.
            Ok(Err(_)) => tokio::time::sleep(TICK).await,
            Err(_) => {}
        }
    }
    state.stopping.store(true, Ordering::SeqCst);
    while let Ok(permit) = Arc::clone(&state.connections).try_acquire_owned()
        && let Ok(Ok((stream, _))) = timeout(Duration::from_millis(1), listener.accept()).await
    {
        spawn(stream, permit);
    }
    drop(listener);
    if state.open_connections() > 0 {
        tokio::time::sleep(ON_THE_WAY).await;
    }
    // Nobody listens when no connection is open.
    let _ = leave.send(true);
    let all_done = |patience| timeout(patience, state.connections.acquire_many(most));
    if all_done(state.options.grace).await.is_ok() {
        return true;
    }
    state.cut.store(true, Ordering::SeqCst);
    // Pictures have an end of their own.
    let rest = state.options.limits.timeout.saturating_sub(state.options.grace);
    all_done(rest + LAST_WORDS).await.is_ok()
}

/// Serves a connection until it ends; when the server leaves, until the answer at hand is given.
async fn connection(
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
    router: Router,
    mut leaving: watch::Receiver<bool>,
    patience: Duration,
) {
    // Rows are short, and each is wanted at once.
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(Patient::new(stream, patience));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES);
    let mut connection = pin!(builder.serve_connection(io, TowerToHyperService::new(router)));
    let mut told = false;
    let mut left = pin!(async move { leaving.wait_for(|left| *left).await.map(drop) });
    // What goes wrong with a connection is its peer's business.
    let _ended = std::future::poll_fn(|cx| {
        if !told && left.as_mut().poll(cx).is_ready() {
            told = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    })
    .await;
}

impl State {
    /// How many connections are open.
    pub(crate) fn open_connections(&self) -> usize {
        self.options.limits.connections.max(1).saturating_sub(self.connections.available_permits())
    }
}

/// Places for so many.
pub(crate) fn places(count: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(count.clamp(1, Semaphore::MAX_PERMITS)))
}
