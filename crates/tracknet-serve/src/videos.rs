//! Videos: a body of any length on its way to the disk, a thread that searches it, an answer that grows.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State as Shared};
use axum::http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response};
use axum::response::IntoResponse;
use serde::Deserialize;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::body::{Allowance, Spool, Streamed, next};
use crate::pictures::{content_type, form};
use crate::problem::Problem;
use crate::routes::{parameters, threshold};
use crate::search::{Ends, Head, Reply, Search};
use crate::server::State;

/// A body of a video may take a second more for each 64 KiB of it.
const PER_MEBIBYTE: Duration = Duration::from_secs(16);
/// Pieces of an answer that wait to be sent.
const WAITING: usize = 64;
/// Says in the answer with an overlay why the video was not searched to its end.
const DAMAGE: HeaderName = HeaderName::from_static("tracknet-damage");

/// What a request may ask for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    model: Option<String>,
    adapter: Option<String>,
    threshold: Option<f32>,
    output: Option<Output>,
    #[serde(default)]
    track: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Output {
    Rows,
    Overlay,
}

/// Tells the search when nobody waits for it any more.
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// `POST /v1/predict/video`
pub(crate) async fn predict(Shared(state): Shared<Arc<State>>, request: Request) -> Response<Body> {
    answer(&state, request).await.unwrap_or_else(Problem::into_response)
}

async fn answer(state: &Arc<State>, request: Request) -> Result<Response<Body>, Problem> {
    let asked: Parameters = parameters(request.uri())?;
    let threshold = threshold(asked.threshold, state.options.threshold)?;
    let output = asked.output.unwrap_or_else(|| accepted(request.headers()));
    let model = state.models.get(asked.model.as_deref())?;
    let predictor = model.entry(asked.adapter.as_deref())?.single.as_ref().clone();
    let limits = state.options.limits;
    let busy = || Problem::busy(format_args!("{} videos are being searched already", limits.videos));
    let place = Arc::clone(&state.videos).try_acquire_owned().map_err(|_| busy())?;
    let folder = tempfile::tempdir_in(state.folder.path()).map_err(Problem::internal)?;
    receive(state, request, &folder).await?;

    let gone = Arc::new(AtomicBool::new(false));
    let waiting = Gone(Arc::clone(&gone));
    let ends = Ends {
        cut: Arc::clone(&state.cut),
        gone,
        deadline: Instant::now() + limits.video_timeout,
        patience: limits.timeout,
        clock: Handle::current(),
    };
    let search = Search {
        predictor,
        path: folder.path().join(NAME),
        overlay: (output == Output::Overlay).then(|| folder.path().join("overlay.mp4")),
        threshold,
        track: asked.track,
        pixels: limits.pixels,
        ends,
    };
    let (head, begun) = oneshot::channel();
    let (body, pieces) = mpsc::channel(WAITING);
    let reply = Reply::new(head, body);
    let shared = Arc::clone(state);
    let work = move || {
        let started = Instant::now();
        match catch_unwind(AssertUnwindSafe(|| search.run(reply))) {
            Ok((frames, problem)) => {
                shared.metrics.video_frames.fetch_add(frames, Ordering::Relaxed);
                let why = problem.map(|problem| format!(", then: {problem}")).unwrap_or_default();
                shared.log.say(|| format!("video of {frames} frames in {:.1} s{why}", started.elapsed().as_secs_f64()));
            }
            // What waits for the answer sees that nothing more comes.
            Err(_) => drop(shared.metrics.panics.fetch_add(1, Ordering::Relaxed)),
        }
        drop((folder, place));
    };
    std::thread::Builder::new().name("video".to_owned()).spawn(work).map_err(Problem::internal)?;
    let Head { length, damage } = begun.await.unwrap_or_else(|_| Err(Problem::internal("the search failed")))?;

    let mut response = Response::new(Body::new(Streamed { pieces, _keep: waiting }));
    let kind = if output == Output::Overlay { "video/mp4" } else { "application/x-ndjson" };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(length) = length {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let plain = |damage: String| damage.replace(|c: char| !c.is_ascii_graphic() && c != ' ', " ");
    if let Some(damage) = damage.and_then(|damage| HeaderValue::from_str(&plain(damage)).ok()) {
        response.headers_mut().insert(DAMAGE, damage);
    }
    Ok(response)
}

/// The name of a video in its folder.
const NAME: &str = "video";

fn accepted(headers: &HeaderMap) -> Output {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accept.trim_start().starts_with("video/mp4") { Output::Overlay } else { Output::Rows }
}

/// Writes the video of a request into a folder.
async fn receive(state: &State, request: Request, folder: &TempDir) -> Result<(), Problem> {
    let limits = state.options.limits;
    let allowance = Allowance { bytes: limits.video, patience: limits.timeout, per_mebibyte: PER_MEBIBYTE };
    let (parts, body) = request.into_parts();
    let mut body = allowance.guard(&parts.headers, body)?;
    let kind = content_type(&parts.headers);
    let is_form = kind == "multipart/form-data";
    if !is_form && kind != "application/octet-stream" && !kind.starts_with("video/") {
        return Err(Problem::unsupported(format_args!(
            "the Content-Type is `{}`, expected video/… or multipart/form-data",
            tracknet::console::shown(&kind)
        )));
    }
    let path = folder.path().join(NAME);
    let file = std::fs::File::create_new(&path).map_err(Problem::internal)?;
    let mut spool = Spool::new(file, path);
    if !is_form {
        while let Some(bytes) = next(&mut body).await? {
            spool.push(&bytes).await?;
        }
        return is_some(spool.finish().await?);
    }
    let mut form = form(Request::from_parts(parts, body)).await?;
    let field = form.next_field().await.map_err(|error| Problem::of_body(&error))?;
    let Some(mut part) = field.filter(|part| part.name() == Some("file")) else {
        return Err(Problem::malformed("the form has no part `file` in front"));
    };
    while let Some(bytes) = part.chunk().await.map_err(|error| Problem::of_body(&error))? {
        spool.push(&bytes).await?;
    }
    drop(part);
    if form.next_field().await.map_err(|error| Problem::of_body(&error))?.is_some() {
        return Err(Problem::malformed("the form has more than one part, expected one video"));
    }
    is_some(spool.finish().await?)
}

fn is_some(bytes: u64) -> Result<(), Problem> {
    if bytes > 0 { Ok(()) } else { Err(Problem::malformed("the body is empty, expected a video")) }
}
