//! Errors as a client sees them: a status, a word for programs, a sentence for people.

use std::error::Error;
use std::fmt;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Response, StatusCode};
use axum::response::IntoResponse;
use tracknet::console::excerpt;

/// The most bytes of a sentence.
const DETAIL_BYTES: usize = 1000;

/// Why a request is not answered as it wished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    /// A word that programs can rely on.
    pub(crate) word: &'static str,
    /// What was found, what was expected.
    pub(crate) detail: String,
}

/// The sentence of an answer, for the log.
#[derive(Debug, Clone)]
pub(crate) struct Reason(pub(crate) String);

impl Problem {
    fn new(status: StatusCode, word: &'static str, detail: impl fmt::Display) -> Self {
        Self { status, word, detail: excerpt(&detail.to_string(), DETAIL_BYTES).into_owned() }
    }

    /// 400: a body that is not what it says.
    pub(crate) fn malformed(detail: impl fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", detail)
    }

    /// 404: no such path, model or adapter.
    pub(crate) fn unknown(detail: impl fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// 408: a body that does not come.
    pub(crate) fn slow(detail: impl fmt::Display) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "too_slow", detail)
    }

    /// 409: not now, because of what is there already.
    pub(crate) fn conflict(detail: impl fmt::Display) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", detail)
    }

    /// 413: a body or picture above the limits.
    pub(crate) fn too_large(detail: impl fmt::Display) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    }

    /// 415: another kind of body.
    pub(crate) fn unsupported(detail: impl fmt::Display) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
    }

    /// 422: a parameter that makes no sense.
    pub(crate) fn parameter(detail: impl fmt::Display) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_parameter", detail)
    }

    /// 429: the queue is full.
    pub(crate) fn busy(detail: impl fmt::Display) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "busy", detail)
    }

    /// 500: the model or this program failed.
    pub(crate) fn internal(detail: impl fmt::Display) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    /// 501: a program that is not installed here.
    pub(crate) fn missing(detail: impl fmt::Display) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "not_available", detail)
    }

    /// 503: not in time.
    pub(crate) fn late(detail: impl fmt::Display) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", detail)
    }

    /// 503: the server is leaving.
    pub(crate) fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the server is stopping")
    }

    /// Any other status.
    pub(crate) fn other(status: StatusCode, word: &'static str, detail: impl fmt::Display) -> Self {
        Self::new(status, word, detail)
    }

    /// What stands for a status that has no body yet.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        let (word, detail) = match status {
            StatusCode::NOT_FOUND => ("not_found", "no such path; GET /openapi.json lists them"),
            StatusCode::METHOD_NOT_ALLOWED => {
                ("method_not_allowed", "not with this method; the header Allow lists those that are")
            }
            _ => ("error", status.canonical_reason().unwrap_or("the request cannot be answered")),
        };
        Self::new(status, word, detail)
    }

    /// The problem that a body met, somewhere below what read it; else a body that broke off.
    pub(crate) fn of_body(error: &(dyn Error + 'static)) -> Self {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(problem) = error.downcast_ref::<Self>() {
                return problem.clone();
            }
            cause = error.source();
        }
        Self::malformed(format_args!("the body is not whole: {error}"))
    }

    /// As one line of JSON, without its end.
    pub(crate) fn json(&self) -> String {
        serde_json::json!({ "error": self.word, "detail": self.detail }).to_string()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl Error for Problem {}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.json() + "\n"));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response.extensions_mut().insert(Reason(self.detail));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_below_other_errors_is_found_and_anything_else_is_a_broken_body() {
        let slow = Problem::slow("nothing came");
        let wrapped = axum::Error::new(axum::Error::new(slow.clone()));
        assert_eq!(Problem::of_body(&wrapped), slow);
        let other = Problem::of_body(&std::io::Error::other("reset"));
        assert_eq!((other.status.as_u16(), other.detail.contains("reset")), (400, true));
    }

    #[test]
    fn a_full_queue_says_when_to_come_again() {
        let response = Problem::busy("64 pictures wait").into_response();
        assert_eq!(
            (response.status().as_u16(), &response.headers()[RETRY_AFTER]),
            (429, &HeaderValue::from_static("1"))
        );
        assert!(!Problem::malformed("").into_response().headers().contains_key(RETRY_AFTER));
    }
}
