//! The paths, and those that need nothing but the state.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Query, State as Shared};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Response, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::{get, post, put};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::problem::Problem;
use crate::server::State;
use crate::{adapters, front, openapi, pictures, videos};

/// The one path that needs no token.
pub(crate) const HEALTH: &str = "/healthz";

/// Every path.
pub(crate) fn router(state: &Arc<State>) -> Router {
    Router::new()
        .route(HEALTH, get(health))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(document))
        .route("/v1/models", get(models))
        .route("/v1/predict", post(pictures::predict))
        .route("/v1/predict/video", post(videos::predict))
        .route("/v1/adapters", get(adapters::list))
        .route("/v1/adapters/{name}", put(adapters::load).delete(adapters::unload))
        // Bodies have limits of their own.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(Arc::clone(state), front::door))
        .with_state(Arc::clone(state))
}

async fn health(Shared(state): Shared<Arc<State>>) -> Response<Body> {
    if state.stopping.load(Ordering::SeqCst) {
        return Problem::stopping().into_response();
    }
    json_response(StatusCode::OK, &json!({ "status": "ok", "ready": true }))
}

async fn metrics(Shared(state): Shared<Arc<State>>) -> Response<Body> {
    let mut response = Response::new(Body::from(state.metrics.text(&state.gauges())));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

async fn document(Shared(state): Shared<Arc<State>>) -> Response<Body> {
    match openapi::document(&state.options) {
        Ok(document) => json_response(StatusCode::OK, &document),
        Err(error) => Problem::internal(error).into_response(),
    }
}

async fn models(Shared(state): Shared<Arc<State>>) -> Response<Body> {
    let model = |(index, model): (usize, &crate::Model)| {
        let (size, frames) = model.input;
        let adapters: Vec<String> = model.adapters().into_iter().map(|(name, _)| name).collect();
        json!({
            "name": model.name(), "default": index == 0, "input_size": size, "frames": frames, "adapters": adapters,
        })
    };
    let models: Vec<_> = state.models.iter().enumerate().map(model).collect();
    json_response(StatusCode::OK, &json!({ "models": models }))
}

/// An answer of one line of JSON.
pub(crate) fn json_response(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    let text = match serde_json::to_string(value) {
        Ok(text) => text + "\n",
        Err(error) => return Problem::internal(error).into_response(),
    };
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The parameters of a request.
///
/// # Errors
/// 422 for one that is unknown, twice there, or of another kind.
pub(crate) fn parameters<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    let query = Query::<T>::try_from_uri(uri);
    query.map(|Query(parameters)| parameters).map_err(|error| Problem::parameter(error.body_text()))
}

/// A score.
///
/// # Errors
/// 422 for what is no number from 0 to 1.
pub(crate) fn threshold(asked: Option<f32>, default: f32) -> Result<f32, Problem> {
    let threshold = asked.unwrap_or(default);
    if (0.0..=1.0).contains(&threshold) {
        return Ok(threshold);
    }
    Err(Problem::parameter(format_args!("threshold is {threshold}, expected a number from 0 to 1")))
}
