//! The front door: what every request passes on its way in, and every answer on its way out.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use axum::extract::{MatchedPath, Request, State as Shared};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, EXPECT, HOST, ORIGIN, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use axum::middleware::Next;
use axum::response::IntoResponse;

use crate::body::SharedBody;
use crate::problem::{Problem, Reason};
use crate::routes::HEALTH;
use crate::server::State;

/// How long the rest of a body is read whose request is refused.
const REST: Duration = Duration::from_secs(5);

/// Lets a request in, and its answer out.
pub(crate) async fn door(Shared(state): Shared<Arc<State>>, request: Request, next: Next) -> Response<Body> {
    let started = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let waits = request.headers().contains_key(EXPECT);
    let (parts, body) = request.into_parts();
    let body = SharedBody::new(body);
    let mut response = match may_enter(&state, &parts.headers, &path) {
        Ok(()) => caught(&state, next.run(Request::from_parts(parts, Body::new(body.clone())))).await,
        Err(problem) => problem.into_response(),
    };
    let status = response.status();
    if status.as_u16() >= 400 {
        // One that waits to be told to send is told not to.
        if !waits && !body.is_end_stream() {
            tokio::spawn(body.drain(state.options.limits.body.saturating_mul(2), REST));
        }
        response = with_problem(response);
    }
    let took = started.elapsed();
    state.metrics.answered(&route, method.as_str(), status.as_u16(), took);
    let reason = response.extensions_mut().remove::<Reason>();
    state.log.say(|| {
        let reason = reason.map(|Reason(reason)| format!(": {}", reason.replace('\n', " "))).unwrap_or_default();
        let path = tracknet::console::shown(&path);
        format!("{method} {path} {} {:.1} ms{reason}", status.as_u16(), took.as_secs_f64() * 1e3)
    });
    response
}

/// Whether a request may come in.
fn may_enter(state: &State, headers: &HeaderMap, path: &str) -> Result<(), Problem> {
    let options = &state.options;
    if options.address.ip().is_loopback() {
        is_called_by_name(headers, &options.hosts)?;
    }
    let Some(token) = options.token.as_deref().filter(|_| path != HEALTH) else { return Ok(()) };
    let shown = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    let (scheme, shown) = shown.split_at_checked("Bearer ".len()).unwrap_or_default();
    if scheme.eq_ignore_ascii_case(b"Bearer ") && are_equal(shown, token.as_bytes()) {
        return Ok(());
    }
    Err(Problem::other(StatusCode::UNAUTHORIZED, "unauthorized", "expected the header Authorization: Bearer <token>"))
}

/// A page of another site may have its name lead to this machine, or send forms to it: both say so in their headers.
fn is_called_by_name(headers: &HeaderMap, hosts: &[String]) -> Result<(), Problem> {
    let refused = |name: &str, found: &HeaderValue| {
        let found = tracknet::console::shown(&String::from_utf8_lossy(found.as_bytes()));
        let detail = format!("the header {name} is `{found}`, expected localhost or a name of --allow-host");
        Err(Problem::other(StatusCode::FORBIDDEN, "forbidden", detail))
    };
    if let Some(host) = headers.get(HOST)
        && !host.to_str().is_ok_and(|host| is_known(host, hosts))
    {
        return refused("Host", host);
    }
    let site = |origin: &HeaderValue| {
        let origin = origin.to_str().ok()?;
        let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"))?;
        is_known(host, hosts).then_some(())
    };
    match headers.get(ORIGIN) {
        Some(origin) if site(origin).is_none() => refused("Origin", origin),
        _ => Ok(()),
    }
}

/// Whether a host, with or without a port, is this machine by a name that cannot be somebody else's.
fn is_known(host: &str, hosts: &[String]) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        || hosts.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Takes the same time wherever two texts of one length differ.
fn are_equal(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0, |all, (a, b)| std::hint::black_box(all | (a ^ b)));
    a.len() == b.len() && differences == 0
}

/// An answer, or 500 where making it panics.
async fn caught(state: &State, answer: impl Future<Output = Response<Body>>) -> Response<Body> {
    let mut answer = Box::pin(answer);
    let ended = std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Some),
        Err(_) => Poll::Ready(None),
    });
    ended.await.unwrap_or_else(|| {
        state.metrics.panics.fetch_add(1, Ordering::Relaxed);
        Problem::internal("an error of this program; its standard error says where").into_response()
    })
}

/// The same answer with a problem in its body, if it has none.
fn with_problem(response: Response<Body>) -> Response<Body> {
    let mut response = response;
    if response.extensions().get::<Reason>().is_none() {
        let (parts, _) = response.into_parts();
        let (made, body) = Problem::of_status(parts.status).into_response().into_parts();
        response = Response::from_parts(parts, body);
        response.headers_mut().extend(made.headers);
        response.extensions_mut().extend(made.extensions);
    }
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    debug_assert!(response.headers().contains_key(CONTENT_TYPE));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_let_in_on_the_loopback() {
        let hosts = ["balls.example".to_owned()];
        for host in [
            "localhost",
            "localhost:8000",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:8000",
            "[::1]",
            "::1",
            "Balls.example:443",
        ] {
            assert!(is_known(host, &hosts), "{host}");
        }
        for host in
            ["evil.example", "evil.example:8000", "10.0.0.1", "localhost.evil.example", "", ":8000", "127.0.0.1.evil"]
        {
            assert!(!is_known(host, &hosts), "{host}");
        }
        let check = |name: axum::http::HeaderName, value: &str| {
            let headers = HeaderMap::from_iter([(name, value.parse().unwrap())]);
            is_called_by_name(&headers, &hosts).map_err(|problem| problem.status.as_u16())
        };
        assert_eq!(check(HOST, "localhost:8000"), Ok(()));
        assert_eq!(check(HOST, "evil.example"), Err(403));
        assert_eq!(check(ORIGIN, "http://localhost:3000"), Ok(()));
        assert_eq!(check(ORIGIN, "https://evil.example"), Err(403));
        assert_eq!(check(ORIGIN, "null"), Err(403));
    }

    #[test]
    fn tokens_are_compared_as_a_whole() {
        assert!(are_equal(b"0123456789abcdef", b"0123456789abcdef"));
        assert!(!are_equal(b"0123456789abcdeg", b"0123456789abcdef"));
        assert!(!are_equal(b"0123456789abcde", b"0123456789abcdef"));
        assert!(!are_equal(b"", b"0123456789abcdef"));
    }
}
