//! Pictures: one or several in a request, and what was found on each.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Multipart, Request, State as Shared};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use axum::response::IntoResponse;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, TryAcquireError};
use tokio::task::JoinSet;
use tracknet::console::excerpt;
use tracknet::datasets::image::{decode_memory, dimensions_in_memory};
use tracknet::evaluation::decode::Candidate;
use tracknet::inference::{FrameResult, Prediction, Predictor};

use crate::body::{Allowance, declared_length, whole};
use crate::models::{Entry, MOST_CANDIDATES};
use crate::problem::Problem;
use crate::routes::{json_response, parameters, threshold};
use crate::server::State;

/// The most bytes of a file's name that are given back.
const NAME_BYTES: usize = 255;

/// What a request may ask for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    model: Option<String>,
    adapter: Option<String>,
    threshold: Option<f32>,
    candidates: Option<usize>,
    output: Option<Output>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Output {
    Json,
    Overlay,
}

/// A picture as it came, and the name of its file if it has one.
struct Picture {
    name: Option<String>,
    bytes: Bytes,
}

/// What was found on a picture; the frame and its heatmap are gone.
struct Found {
    prediction: Prediction,
    candidates: Vec<Place>,
}

/// A place where the ball may be, in native pixels.
#[derive(Serialize)]
struct Place {
    x: f32,
    y: f32,
    score: f32,
}

/// One of the answer's predictions.
#[derive(Serialize)]
struct Row<'a, L> {
    #[serde(flatten)]
    line: L,
    #[serde(skip_serializing_if = "Option::is_none")]
    candidates: Option<&'a [Place]>,
}

#[derive(Serialize)]
struct Answer<'a, L> {
    model: &'a str,
    adapter: Option<&'a str>,
    predictions: Vec<Row<'a, L>>,
}

/// `POST /v1/predict`
pub(crate) async fn predict(Shared(state): Shared<Arc<State>>, request: Request) -> Response<Body> {
    let patience = state.options.limits.timeout;
    // A body that is too slow says so itself, at the same time.
    let answered = tokio::time::timeout(patience, answer(&state, request));
    let late = || Err(Problem::late(format_args!("no answer within {patience:?}; the server is busy")));
    answered.await.unwrap_or_else(|_| late()).unwrap_or_else(Problem::into_response)
}

async fn answer(state: &Arc<State>, request: Request) -> Result<Response<Body>, Problem> {
    let asked: Parameters = parameters(request.uri())?;
    let threshold = threshold(asked.threshold, state.options.threshold)?;
    if let Some(count) = asked.candidates.filter(|count| !(1..=MOST_CANDIDATES).contains(count)) {
        return Err(Problem::parameter(format_args!("candidates is {count}, expected 1 to {MOST_CANDIDATES}")));
    }
    let output = asked.output.unwrap_or_else(|| accepted(request.headers()));
    let model = state.models.get(asked.model.as_deref())?;
    let Entry { single, several } = model.entry(asked.adapter.as_deref())?;
    let predictor = if asked.candidates.is_some() { several } else { single };
    // A body is not read for nothing.
    if state.queue.available_permits() == 0 {
        return Err(full(state));
    }
    let (pictures, memory) = receive(state, request).await?;
    if output == Output::Overlay {
        let [picture] = <[Picture; 1]>::try_from(pictures)
            .map_err(|all| Problem::parameter(format_args!("an overlay is of one picture, not of {}", all.len())))?;
        return overlay(state, predictor, picture, threshold).await;
    }
    let names: Vec<Option<String>> = pictures.iter().map(|picture| picture.name.clone()).collect();
    let found = search_all(state, &predictor, pictures).await?;
    drop(memory);
    // A picture that cannot be read costs its row, but a request of which nothing is left has failed.
    if let (true, Some(Err(problem))) = (found.iter().all(Result::is_err), found.first()) {
        return Err(problem.clone());
    }
    let numbered = |((frame, file), found): ((u64, Option<String>), Result<Found, Problem>)| match found {
        Ok(found) => Found { prediction: Prediction { frame, file, ..found.prediction }, ..found },
        Err(problem) => Found { prediction: Prediction::damaged(frame, file, problem.detail), candidates: Vec::new() },
    };
    let found: Vec<Found> = (0..).zip(names).zip(found).map(numbered).collect();
    let predictions = found.iter().map(|found| Row {
        line: found.prediction.line(threshold),
        candidates: asked.candidates.map(|most| &found.candidates[..most.min(found.candidates.len())]),
    });
    let predictions = predictions.collect();
    Ok(json_response(StatusCode::OK, &Answer { model: model.name(), adapter: asked.adapter.as_deref(), predictions }))
}

/// What a client that does not say what it wants would like best.
fn accepted(headers: &HeaderMap) -> Output {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accept.trim_start().starts_with("image/png") { Output::Overlay } else { Output::Json }
}

fn full(state: &State) -> Problem {
    Problem::busy(format_args!("{} pictures wait already", state.options.limits.queue))
}

/// Places in the queue.
fn places(state: &State, count: usize) -> Result<Vec<OwnedSemaphorePermit>, Problem> {
    let most = state.options.limits.queue;
    if count > most {
        return Err(Problem::too_large(format_args!("{count} pictures at once, at most {most}")));
    }
    let place = |_| Arc::clone(&state.queue).try_acquire_owned().map_err(|_: TryAcquireError| full(state));
    // Those that were had are given back where one is missing.
    (0..count).map(place).collect()
}

/// Reads the pictures of a request, and the memory that they hold.
async fn receive(state: &State, request: Request) -> Result<(Vec<Picture>, Option<OwnedSemaphorePermit>), Problem> {
    let limits = &state.options.limits;
    let allowance = Allowance { bytes: limits.body, patience: limits.timeout, per_mebibyte: std::time::Duration::ZERO };
    let (parts, body) = request.into_parts();
    let body = allowance.guard(&parts.headers, body)?;
    let kind = content_type(&parts.headers);
    let several = kind == "multipart/form-data";
    if !several && !matches!(kind.as_str(), "image/jpeg" | "image/png" | "application/octet-stream") {
        return Err(Problem::unsupported(format_args!(
            "the Content-Type is `{}`, expected image/jpeg, image/png or multipart/form-data",
            tracknet::console::shown(&kind)
        )));
    }
    let memory = state.bodies.take(declared_length(&parts.headers).unwrap_or(limits.body)).await;
    let pictures = if several {
        parts_of(Request::from_parts(parts, body), limits.queue).await?
    } else {
        vec![Picture { name: None, bytes: whole(body).await? }]
    };
    Ok((pictures, memory))
}

/// The media type of a body, without parameters, in lower case.
pub(crate) fn content_type(headers: &HeaderMap) -> String {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The parts of a form that are called `file`.
async fn parts_of(request: Request, most: usize) -> Result<Vec<Picture>, Problem> {
    let mut form = form(request).await?;
    let mut pictures = Vec::new();
    while let Some(part) = form.next_field().await.map_err(|error| Problem::of_body(&error))? {
        if part.name() != Some("file") {
            let name = tracknet::console::shown(part.name().unwrap_or_default());
            return Err(Problem::malformed(format_args!("a part is called `{name}`, expected `file`")));
        }
        if pictures.len() == most {
            return Err(Problem::too_large(format_args!("more than {most} pictures at once")));
        }
        let name = part.file_name().map(|name| excerpt(name, NAME_BYTES).into_owned());
        let bytes = part.bytes().await.map_err(|error| Problem::of_body(&error))?;
        pictures.push(Picture { name, bytes });
    }
    if pictures.is_empty() {
        return Err(Problem::malformed("the form has no part `file`"));
    }
    Ok(pictures)
}

/// A request's form.
///
/// # Errors
/// 400 without a boundary.
pub(crate) async fn form(request: Request) -> Result<Multipart, Problem> {
    Multipart::from_request(request, &()).await.map_err(|error| Problem::malformed(error.body_text()))
}

/// Searches pictures side by side; those that nobody waits for any more are left out.
async fn search_all(
    state: &Arc<State>,
    predictor: &Arc<Predictor>,
    pictures: Vec<Picture>,
) -> Result<Vec<Result<Found, Problem>>, Problem> {
    let places = places(state, pictures.len())?;
    let mut tasks = JoinSet::new();
    let mut found: Vec<_> = pictures.iter().map(|_| Err(Problem::internal("the search was given up"))).collect();
    for ((index, picture), place) in pictures.into_iter().enumerate().zip(places) {
        let (state, predictor) = (Arc::clone(state), Arc::clone(predictor));
        tasks.spawn(async move {
            let found = search(&state, predictor, picture.bytes).await.map(|(found, _)| {
                let place = |found: &Candidate| Place {
                    x: found.detection.x,
                    y: found.detection.y,
                    score: found.detection.score,
                };
                Found { candidates: found.candidates.iter().map(place).collect(), prediction: found.prediction }
            });
            drop(place);
            (index, found)
        });
    }
    while let Some(ended) = tasks.join_next().await {
        if let Ok((index, result)) = ended {
            found[index] = result;
        }
    }
    Ok(found)
}

/// Decodes a picture and searches it; what comes back holds memory as long as its permit.
async fn search(
    state: &State,
    predictor: Arc<Predictor>,
    bytes: Bytes,
) -> Result<(FrameResult, Option<OwnedSemaphorePermit>), Problem> {
    let header = bytes.clone();
    let size = blocking(move || dimensions_in_memory(&header).map_err(Problem::malformed)).await?;
    let pixels = u64::from(size[0]) * u64::from(size[1]);
    let most = state.options.limits.pixels;
    if pixels > most {
        let [width, height] = size;
        return Err(Problem::too_large(format_args!(
            "the picture is {width}×{height}, at most {most} pixels are read"
        )));
    }
    let memory = state.pixels.take(3 * pixels).await;
    let coming = state.batcher.announce();
    let picture = blocking(move || decode_memory(&bytes).map_err(Problem::malformed)).await?;
    Ok((state.batcher.search(predictor, picture, coming).await?, memory))
}

/// Does what takes a while where no connection waits for it.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let failed = |_| Err(Problem::internal("an error of this program; its standard error says where"));
    tokio::task::spawn_blocking(work).await.unwrap_or_else(failed)
}

/// Answers with the picture and the ball ringed.
async fn overlay(
    state: &State,
    predictor: Arc<Predictor>,
    picture: Picture,
    threshold: f32,
) -> Result<Response<Body>, Problem> {
    let _places = places(state, 1)?;
    let (found, _memory) = search(state, predictor, picture.bytes).await?;
    let png = blocking(move || {
        let drawn = found.overlay(threshold).map_err(Problem::internal)?;
        let mut png = Vec::new();
        let encoder = PngEncoder::new(&mut png);
        let encoded = encoder.write_image(drawn.as_raw(), drawn.width(), drawn.height(), ExtendedColorType::Rgb8);
        encoded.map(|()| png).map_err(Problem::internal)
    });
    let mut response = Response::new(Body::from(png.await?));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("image/png"));
    Ok(response)
}
