//! The page and what it asks for, on loopback only. Requests of other pages in the same browser are refused: by the name of the host
//! that they ask (another name for this machine), by their origin, and because changes have to come as JSON.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracknet::datasets::{Label, Visibility};
use tracknet::evaluation::TrackSource;

use crate::LabelError;
use crate::work::{Change, Work};

/// The page, with its style and script in it.
const PAGE: &str = include_str!("page.html");

/// How often the server looks whether it is to end.
const PATIENCE: Duration = Duration::from_millis(100);

/// Serves the page on a port of 127.0.0.1 (0 = any that is free) until `stopped` says so; `listening` hears the address.
///
/// # Errors
/// A port that cannot be had.
pub fn serve(
    work: Arc<Work>,
    port: u16,
    stopped: impl Fn() -> bool + Send + 'static,
    listening: impl FnOnce(SocketAddr) + Send,
) -> Result<(), LabelError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let ended = runtime.map_err(LabelError::Server)?.block_on(async {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let listen = tokio::net::TcpListener::bind(address).await;
        let listener = listen.map_err(|cause| LabelError::Listen { address, cause })?;
        let address = listener.local_addr().map_err(LabelError::Server)?;
        listening(address);
        let router = router(Arc::clone(&work), address.port());
        let stop = async move {
            while !stopped() {
                tokio::time::sleep(PATIENCE).await;
            }
        };
        axum::serve(listener, router).with_graceful_shutdown(stop).await.map_err(LabelError::Server)
    });
    work.end();
    ended
}

fn router(work: Arc<Work>, port: u16) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/api/work", get(overview))
        .route("/api/changes", get(changes))
        .route("/api/frame/{frame}", get(about))
        .route("/api/next", get(next))
        .route("/api/label", post(label))
        .route("/api/train", post(train))
        .route("/frames/{frame}", get(picture))
        .layer(DefaultBodyLimit::max(4096))
        .layer(from_fn_with_state(port, door))
        .with_state(work)
}

/// An error as JSON.
fn problem(status: StatusCode, error: impl std::fmt::Display) -> Response {
    (status, Json(json!({ "error": error.to_string() }))).into_response()
}

/// Lets in who asks for this very server, from its own page.
async fn door(State(port): State<u16>, request: Request, next: Next) -> Response {
    let names = [format!("127.0.0.1:{port}"), format!("localhost:{port}")];
    let text = |headers: &HeaderMap, name| {
        headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).map(str::to_owned)
    };
    let host = text(request.headers(), header::HOST);
    if !host.is_some_and(|host| names.contains(&host)) {
        return problem(StatusCode::FORBIDDEN, "this server answers to 127.0.0.1 and localhost only");
    }
    let origin = text(request.headers(), header::ORIGIN);
    if origin.is_some_and(|origin| !names.iter().any(|name| origin == format!("http://{name}"))) {
        return problem(StatusCode::FORBIDDEN, "only the page of this server may ask");
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Nothing is loaded from elsewhere, and no other page shows this one.
    let policy = "default-src 'none'; img-src 'self' blob:; connect-src 'self'; style-src 'unsafe-inline'; \
                  script-src 'unsafe-inline'; frame-ancestors 'none'";
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

async fn page() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CACHE_CONTROL, "no-store")], PAGE)
}

/// A label as the page has it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PageLabel {
    /// 0 absent, 1 visible, 2 hard to see, 3 hidden.
    visibility: u8,
    /// Pixels, with the centre of the first at 0.
    x: Option<f32>,
    y: Option<f32>,
}

impl PageLabel {
    fn of(label: Label) -> Self {
        let [x, y] = label.xy.map_or([None, None], |[x, y]| [Some(x), Some(y)]);
        Self { visibility: label.visibility as u8, x, y }
    }

    /// The label, or why it is none.
    fn label(self) -> Result<Label, &'static str> {
        let visibility = Visibility::from_number(self.visibility).ok_or("visibility: expected 0, 1, 2 or 3")?;
        match (visibility, self.x, self.y) {
            (Visibility::Absent, None, None) => Ok(Label::ABSENT),
            (Visibility::Absent, ..) => Err("an absent ball has no x and y"),
            (_, Some(x), Some(y)) if x.is_finite() && y.is_finite() && x >= -0.5 && y >= -0.5 => {
                // As the file has it: hundredths of a pixel, none of them negative.
                let rounded = [x, y].map(|v| (v.max(0.0) * 100.0).round() / 100.0);
                Ok(Label { visibility, xy: Some(rounded) })
            }
            _ => Err("expected x and y within the frame"),
        }
    }
}

/// A change that the page asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    frame: usize,
    /// The label that the page shows for the frame.
    was: Option<PageLabel>,
    label: Option<PageLabel>,
}

async fn overview(State(work): State<Arc<Work>>) -> Json<Value> {
    let clips = work.book(|book| {
        let name = |dir: &std::path::Path| dir.file_name().map(|name| name.to_string_lossy().into_owned());
        let clip = |clip: &tracknet::datasets::labelling::BookClip| json!({ "name": name(&clip.dir), "first": clip.first, "count": clip.count });
        book.clips().iter().map(clip).collect::<Vec<_>>()
    });
    let (frames, labels) = work.book(|book| {
        let labels = (0..book.len()).filter_map(|frame| Some((frame, PageLabel::of(book.label(frame)?))));
        (book.len(), labels.collect::<Vec<_>>())
    });
    let (revision, _) = work.changes(usize::MAX);
    Json(json!({
        "clips": clips, "frames": frames, "labels": labels, "revision": revision, "can_train": work.can_train(),
        "progress": progress(&work),
    }))
}

/// What goes on beside the page.
fn progress(work: &Work) -> Value {
    let (proposed, model) = work.proposed();
    let (running, said) = work.training();
    let (model, trouble) = match model {
        Some(Ok(run)) => (Some(run.display().to_string()), None),
        Some(Err(trouble)) => (None, Some(trouble)),
        None => (None, None),
    };
    json!({ "proposed": proposed, "model": model, "trouble": trouble, "training": running, "said": said })
}

#[derive(Debug, Deserialize)]
struct Since {
    since: usize,
}

async fn changes(State(work): State<Arc<Work>>, Query(Since { since }): Query<Since>) -> Json<Value> {
    let (revision, changed) = work.changes(since);
    let labels: Vec<_> = changed.into_iter().map(|(frame, label)| (frame, label.map(PageLabel::of))).collect();
    Json(json!({ "revision": revision, "labels": labels, "progress": progress(&work) }))
}

async fn about(State(work): State<Arc<Work>>, Path(frame): Path<usize>) -> Response {
    let Some((name, label)) = work.book(|book| Some((book.path(frame)?.file_name()?.to_owned(), book.label(frame))))
    else {
        return problem(StatusCode::NOT_FOUND, format_args!("no frame has the number {frame}"));
    };
    let proposal = work.proposal(frame).map(|found| {
        let source = found.source.map(TrackSource::name);
        json!({ "x": found.xy.map(|xy| xy[0]), "y": found.xy.map(|xy| xy[1]), "score": found.score, "source": source,
                "doubt": crate::doubt::doubt(&found) })
    });
    Json(json!({ "name": name.to_string_lossy(), "label": label.map(PageLabel::of), "proposal": proposal }))
        .into_response()
}

#[derive(Debug, Deserialize)]
struct Besides {
    besides: Option<usize>,
}

async fn next(State(work): State<Arc<Work>>, Query(Besides { besides }): Query<Besides>) -> Json<Value> {
    Json(json!({ "frame": work.next(besides) }))
}

async fn label(State(work): State<Arc<Work>>, Json(asked): Json<Asked>) -> Response {
    let read = |label: Option<PageLabel>| label.map(PageLabel::label).transpose();
    let (was, label) = match (read(asked.was), read(asked.label)) {
        (Ok(was), Ok(label)) => (was, label),
        (Err(error), _) | (_, Err(error)) => return problem(StatusCode::UNPROCESSABLE_ENTITY, error),
    };
    if work.book(|book| book.path(asked.frame).is_none()) {
        return problem(StatusCode::NOT_FOUND, format_args!("no frame has the number {}", asked.frame));
    }
    // A file is written: not on the threads that answer.
    let written = tokio::task::spawn_blocking(move || work.label(asked.frame, was, label)).await;
    match written {
        Ok(Ok(Change::Written(revision))) => Json(json!({ "revision": revision })).into_response(),
        Ok(Ok(Change::Conflict(label))) => (
            StatusCode::CONFLICT,
            Json(json!({ "error": "another page labelled this frame", "label": label.map(PageLabel::of) })),
        )
            .into_response(),
        Ok(Err(error)) => problem(StatusCode::INTERNAL_SERVER_ERROR, error),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

async fn train(State(work): State<Arc<Work>>) -> Response {
    match work.train() {
        Ok(()) => (StatusCode::ACCEPTED, Json(json!({}))).into_response(),
        Err(error) => problem(StatusCode::CONFLICT, error),
    }
}

async fn picture(State(work): State<Arc<Work>>, Path(frame): Path<usize>) -> Response {
    let Some(path) = work.book(|book| book.path(frame).map(std::path::Path::to_path_buf)) else {
        return problem(StatusCode::NOT_FOUND, format_args!("no frame has the number {frame}"));
    };
    let is_png = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png"));
    let bytes = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
    match bytes {
        Ok(Ok(bytes)) => {
            let kind = if is_png { "image/png" } else { "image/jpeg" };
            ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "max-age=86400, immutable")], Body::from(bytes))
                .into_response()
        }
        Ok(Err(error)) => problem(StatusCode::INTERNAL_SERVER_ERROR, error),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}
