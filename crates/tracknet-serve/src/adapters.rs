//! Adapters by name: listed, loaded and dropped while the server runs.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path as InPath, Request, State as Shared};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::json;

use crate::body::{Allowance, whole};
use crate::models::Loaded;
use crate::options::is_name;
use crate::pictures::{blocking, content_type};
use crate::problem::Problem;
use crate::routes::{json_response, parameters};
use crate::server::State;

/// The most bytes of what says where an adapter is.
const MOST_BYTES: u64 = 16 << 10;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    model: Option<String>,
}

/// Where an adapter is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    path: String,
}

/// `GET /v1/adapters`
pub(crate) async fn list(Shared(state): Shared<Arc<State>>, request: Request) -> Response<Body> {
    let listed = || {
        let asked: Parameters = parameters(request.uri())?;
        let model = state.models.get(asked.model.as_deref())?;
        let adapters: Vec<_> =
            model.adapters().into_iter().map(|(name, path)| json!({ "name": name, "path": path })).collect();
        Ok(json_response(StatusCode::OK, &json!({ "model": model.name(), "adapters": adapters })))
    };
    listed().unwrap_or_else(Problem::into_response)
}

/// `PUT /v1/adapters/{name}`
pub(crate) async fn load(
    Shared(state): Shared<Arc<State>>,
    InPath(name): InPath<String>,
    request: Request,
) -> Response<Body> {
    load_named(&state, name, request).await.unwrap_or_else(Problem::into_response)
}

async fn load_named(state: &Arc<State>, name: String, request: Request) -> Result<Response<Body>, Problem> {
    let asked: Parameters = parameters(request.uri())?;
    state.models.get(asked.model.as_deref())?;
    if !is_name(&name) {
        return Err(Problem::parameter(
            "the name of an adapter has 1 to 64 letters, digits, `-`, `_` and `.`, and does not begin with a dot",
        ));
    }
    let (parts, body) = request.into_parts();
    if content_type(&parts.headers) != "application/json" {
        return Err(Problem::unsupported("expected the Content-Type application/json"));
    }
    let patience = state.options.limits.timeout;
    let allowance = Allowance { bytes: MOST_BYTES, patience, per_mebibyte: Duration::ZERO };
    let bytes = whole(allowance.guard(&parts.headers, body)?).await?;
    let place: Place = serde_json::from_slice(&bytes).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => Problem::parameter(error),
        _ => Problem::malformed(format_args!("the body is no JSON: {error}")),
    })?;
    let (shared, model) = (Arc::clone(state), asked.model);
    blocking(move || {
        let model = shared.models.get(model.as_deref())?;
        let dir = find(&shared.adapter_folders, &place.path)?;
        let loaded = model.load(&name, &dir, Some(place.path.clone()), shared.options.limits.adapters);
        let status = match loaded.map_err(|error| Problem::parameter(without(&error, &dir, &place.path)))? {
            Loaded::New => StatusCode::CREATED,
            Loaded::Replaced => StatusCode::OK,
            Loaded::TooMany => {
                let most = shared.options.limits.adapters;
                return Err(Problem::conflict(format_args!("{most} adapters are loaded already; drop one first")));
            }
        };
        Ok(json_response(status, &json!({ "model": model.name(), "name": name, "path": place.path })))
    })
    .await
}

/// The message of an error without the path of this machine.
fn without(error: &tracknet::Error, dir: &Path, asked: &str) -> String {
    error.to_string().replace(&dir.display().to_string(), asked)
}

/// `DELETE /v1/adapters/{name}`
pub(crate) async fn unload(
    Shared(state): Shared<Arc<State>>,
    InPath(name): InPath<String>,
    request: Request,
) -> Response<Body> {
    let asked = parameters::<Parameters>(request.uri());
    let shared = Arc::clone(&state);
    let unloaded = blocking(move || shared.models.get(asked?.model.as_deref())?.unload(&name));
    match unloaded.await {
        Ok(()) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        Err(problem) => problem.into_response(),
    }
}

/// The directory of an adapter below one of the folders, wherever links lead.
///
/// # Errors
/// 422 for a path that leads out of them, or to nothing.
fn find(folders: &[PathBuf], path: &str) -> Result<PathBuf, Problem> {
    let shown = tracknet::console::shown(path);
    if folders.is_empty() {
        return Err(Problem::parameter("no folder of adapters was named when the server was started (--adapters DIR)"));
    }
    let relative = Path::new(path);
    let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    if path.is_empty() || path.contains('\0') || !relative.components().all(is_plain) {
        let expected = "expected one below the folder of --adapters, without `..`";
        return Err(Problem::parameter(format_args!("the path `{shown}` leads elsewhere, {expected}")));
    }
    let inside = |folder: &PathBuf| {
        let found = folder.join(relative).canonicalize().ok()?;
        (found.starts_with(folder) && found != *folder && found.is_dir()).then_some(found)
    };
    let found = folders.iter().find_map(inside);
    found.ok_or_else(|| {
        Problem::parameter(format_args!("there is no directory `{shown}` below the folders of --adapters"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_below_the_folders_are_found() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        for dir in ["allowed/clay/deep", "other/grass", "second/hard"] {
            std::fs::create_dir_all(root.join(dir)).unwrap();
        }
        std::fs::write(root.join("allowed/file"), "").unwrap();
        let folders = [root.join("allowed"), root.join("second")];
        for (path, expected) in [("clay", "allowed/clay"), ("clay/deep", "allowed/clay/deep"), ("hard", "second/hard")]
        {
            assert_eq!(find(&folders, path).unwrap(), root.join(expected), "{path}");
        }
        let absolute = root.join("allowed/clay").display().to_string();
        for path in
            ["", ".", "..", "../other/grass", "clay/../../other/grass", "grass", "file", "a\0b", absolute.as_str()]
        {
            assert_eq!(find(&folders, path).unwrap_err().status.as_u16(), 422, "{path}");
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(root.join("other/grass"), root.join("allowed/link")).unwrap();
            assert!(find(&folders, "link").is_err());
        }
        assert!(find(&[], "clay").unwrap_err().detail.contains("--adapters"));
    }
}
