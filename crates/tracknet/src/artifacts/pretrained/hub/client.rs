//! Requests to a hub, in the protocol that `huggingface_hub` speaks: what a revision holds
//! (`/api/models/NAME/revision/REVISION`), what a file is (`HEAD /NAME/resolve/COMMIT/FILE`, whose `X-Linked-Etag` and
//! `X-Linked-Size` speak of a large file that a storage elsewhere has), and its bytes from an offset on.
//!
//! Redirects are followed here instead of in the HTTP library: the token goes to the hub and nowhere else.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, LOCATION, RANGE};
use ureq::http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, Proxy};

use crate::error::{IoContext, Result};
use crate::files::{Limit, read, read_bytes, read_text};
use crate::models::ModelError;

use super::environment::Environment;
use super::failure::{Failure, Refusal};
use super::progress::Progress;

/// Redirects in a row that are followed.
const REDIRECTS: usize = 10;
/// Requests that are made again after failures that may pass, before anything new has come.
const RETRIES: u32 = 4;
/// The longest that a server may ask to wait before a request is made again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long a connection may take to stand.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(30);
/// A token is a few dozen characters.
const TOKEN: Limit = Limit { kind: "a token", bytes: 64 << 10 };

/// A hub that answers requests.
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    origin: Origin,
    authorization: Option<HeaderValue>,
    pause: Duration,
    /// Whether any server has answered: until then, a failed connection is not tried again.
    reached: Cell<bool>,
}

/// What a revision of a model holds.
#[derive(Debug, Deserialize)]
pub(super) struct Listing {
    /// The commit.
    pub(super) sha: String,
    /// The files.
    pub(super) siblings: Vec<Sibling>,
}

/// A file of a revision.
#[derive(Debug, Deserialize)]
pub(super) struct Sibling {
    /// Its path.
    #[serde(rename = "rfilename")]
    pub(super) name: String,
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remote {
    /// Its address at the hub.
    pub(super) url: String,
    /// Names the content: the SHA-256 of a large file, the object of git of a small one.
    pub(super) etag: String,
    /// Its bytes.
    pub(super) size: u64,
}

impl Remote {
    /// The SHA-256 of the content, where the hub says it.
    pub(super) fn sha256(&self) -> Option<&str> {
        Some(self.etag.as_str()).filter(|etag| etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit()))
    }
}

/// Scheme, host and port.
type Origin = (String, String, u16);

impl Client {
    /// A client of the hub that the environment names; nothing is requested yet.
    ///
    /// # Errors
    /// An address, a token or certificates that are none.
    pub(super) fn new(environment: &Environment) -> Result<Self> {
        let endpoint = environment.endpoint.clone();
        let origin = endpoint.parse().ok().and_then(|uri| origin_of(&uri)).ok_or_else(|| {
            let message = format!("is `{endpoint}`, expected an address such as https://huggingface.co");
            ModelError::key("HF_ENDPOINT", message)
        })?;
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("tracknet/", env!("CARGO_PKG_VERSION")))
            .proxy(if environment.proxy { Proxy::try_from_env() } else { None })
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE));
        if let Some(roots) = certificates(environment)? {
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        Ok(Self {
            agent: config.build().into(),
            endpoint,
            origin,
            authorization: authorization(environment)?,
            pause: environment.pause,
            reached: Cell::new(false),
        })
    }

    /// Whether requests carry a token.
    pub(super) fn has_token(&self) -> bool {
        self.authorization.is_some()
    }

    /// What the main branch of a model holds.
    ///
    /// # Errors
    /// No answer, a refusal, or an answer that is not a hub's.
    pub(super) fn listing(&self, name: &str) -> Result<Listing, Failure> {
        let url = format!("{}/api/models/{name}/revision/main", self.endpoint);
        let bytes = self.patiently(|| {
            let answer = self.send(&Method::GET, &url, None)?;
            let body = answer.into_body().into_with_config().limit(read::JSON.bytes);
            body.read_to_vec().map_err(|error| self.network(&url, &error))
        })?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Failure::strange(&url, format!("no description of a model: {error}")))
    }

    /// What a file of a commit is.
    ///
    /// # Errors
    /// As [`Self::listing`].
    pub(super) fn describe(&self, name: &str, commit: &str, file: &str) -> Result<Remote, Failure> {
        let url = format!("{}/{name}/resolve/{commit}/{}", self.endpoint, percent_encoded(file));
        let answer = self.patiently(|| self.send(&Method::HEAD, &url, None))?;
        let header = |names: &[&str]| names.iter().find_map(|name| text(answer.headers(), name));
        let etag = header(&["x-linked-etag", ETAG.as_str()]).unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"');
        let size = match answer.status().is_redirection() {
            true => header(&["x-linked-size"]),
            false => header(&["x-linked-size", CONTENT_LENGTH.as_str()]),
        };
        let Some(size) = size.and_then(|size| size.parse().ok()) else {
            return Err(Failure::strange(&url, "no size of the file".to_owned()));
        };
        // It becomes the name of a file.
        if !is_plain(etag) {
            return Err(Failure::strange(&url, format!("the ETag `{etag}`, which names no content")));
        }
        Ok(Remote { etag: etag.to_owned(), size, url })
    }

    /// Adds to `out` what it lacks of a file. A connection that breaks off is made again and goes on where it ended, as long
    /// as something comes.
    ///
    /// Bytes are written at their own offset, never at the end of the file: two processes that write it at once, on a file
    /// system where locks hold nobody off, write the same.
    ///
    /// # Errors
    /// As [`Self::listing`]; or the file cannot be written. What has come stays in `out`.
    pub(super) fn fill(&self, remote: &Remote, out: &mut File, progress: &mut Progress) -> Result<(), Failure> {
        let mut done = out.metadata().map_err(Failure::Disk)?.len();
        if done > remote.size {
            out.set_len(0).map_err(Failure::Disk)?;
            done = 0;
        }
        progress.begin(done);
        let mut failures = 0;
        while done < remote.size {
            let before = done;
            let Err(failure) = self.go_on(remote, out, &mut done, progress) else { continue };
            failures = if done > before { 1 } else { failures + 1 };
            match self.pause_after(&failure, failures) {
                Some(pause) => thread::sleep(pause),
                None => return Err(failure),
            }
        }
        Ok(())
    }

    /// One request for what is lacking from `done` on.
    fn go_on(&self, remote: &Remote, out: &mut File, done: &mut u64, progress: &mut Progress) -> Result<(), Failure> {
        let answer = self.send(&Method::GET, &remote.url, Some(*done))?;
        let starts_at = match text(answer.headers(), CONTENT_RANGE.as_str()) {
            Some(range) if answer.status() == 206 => {
                let start = range.strip_prefix("bytes ").and_then(|range| range.split_once('-'));
                start.and_then(|(start, _)| start.parse().ok())
            }
            _ => Some(0), // A server that knows no ranges sends everything.
        };
        if starts_at != Some(*done) {
            out.set_len(0).map_err(Failure::Disk)?;
            *done = 0;
            progress.begin(0);
            if starts_at != Some(0) {
                return Err(Failure::strange(&remote.url, "another part of the file than was asked for".to_owned()));
            }
        }
        out.seek(SeekFrom::Start(*done)).map_err(Failure::Disk)?;
        let mut body = answer.into_body().into_reader().take(remote.size - *done);
        let mut buffer = vec![0; 1 << 18];
        while *done < remote.size {
            let n = body.read(&mut buffer).map_err(|error| self.network(&remote.url, &error))?;
            if n == 0 {
                return Err(self.network(&remote.url, &"the connection ended before the file did"));
            }
            out.write_all(&buffer[..n]).map_err(Failure::Disk)?;
            *done += n as u64;
            progress.advance(*done);
        }
        Ok(())
    }

    /// Makes a request again while its failure may pass.
    fn patiently<T>(&self, request: impl Fn() -> Result<T, Failure>) -> Result<T, Failure> {
        let mut failures = 0;
        loop {
            let failure = match request() {
                Err(failure) => failure,
                answer => return answer,
            };
            failures += 1;
            match self.pause_after(&failure, failures) {
                Some(pause) => thread::sleep(pause),
                None => return Err(failure),
            }
        }
    }

    /// How long to wait after a failure, the `failures`th in a row; nothing where trying again is no use.
    fn pause_after(&self, failure: &Failure, failures: u32) -> Option<Duration> {
        if failures > RETRIES {
            return None;
        }
        let pause = self.pause * 2u32.pow(failures - 1);
        match failure {
            Failure::Network { .. } => Some(pause).filter(|_| self.reached.get()),
            Failure::Refused(refusal) if matches!(refusal.status, 408 | 429 | 500..) => {
                Some(pause.max(refusal.retry_after)).filter(|pause| *pause <= LONGEST_PAUSE)
            }
            _ => None,
        }
    }

    /// One request, with the redirects that it meets. That of a `HEAD` ends at the hub: how it sends elsewhere is the answer.
    fn send(&self, method: &Method, url: &str, from: Option<u64>) -> Result<Response<Body>, Failure> {
        let strange = |what: &str| Failure::strange(url, what.to_owned());
        let mut at: Uri = url.parse().map_err(|_| strange("an address that is none"))?;
        for _ in 0..=REDIRECTS {
            let mut request = Request::builder().method(method).uri(&at).header(ACCEPT_ENCODING, "identity");
            if let Some(from) = from {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let at_hub = origin_of(&at).as_ref() == Some(&self.origin);
            if let Some(token) = self.authorization.as_ref().filter(|_| at_hub) {
                request = request.header(AUTHORIZATION, token);
            }
            let request = request.body(()).map_err(|error| strange(&error.to_string()))?;
            let answer = self.agent.run(request).map_err(|error| self.network(&at.to_string(), &error))?;
            self.reached.set(true);
            let status = answer.status();
            if status.is_success() {
                return Ok(answer);
            }
            let Some(location) = text(answer.headers(), LOCATION.as_str()).filter(|_| status.is_redirection()) else {
                return Err(Failure::Refused(Refusal::of(&answer, &at, at_hub)));
            };
            let next = target(&at, location).ok_or_else(|| strange("a redirect to no address"))?;
            if at.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(strange("a redirect from https to an address without it"));
            }
            if *method == Method::HEAD && origin_of(&next).as_ref() != Some(&self.origin) {
                return Ok(answer);
            }
            at = next;
        }
        Err(strange("more redirects than are followed"))
    }

    fn network(&self, url: &str, cause: &dyn std::fmt::Display) -> Failure {
        let host = url.parse().ok().and_then(|uri| origin_of(&uri)).map_or_else(|| url.to_owned(), |origin| origin.1);
        Failure::Network { host, cause: cause.to_string(), reached: self.reached.get() }
    }
}

/// Of letters, digits and dashes, as commits and the names of contents are.
pub(super) fn is_plain(name: &str) -> bool {
    (1..=128).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

fn origin_of(uri: &Uri) -> Option<Origin> {
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let default = match scheme.as_str() {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    Some((scheme, uri.host()?.to_ascii_lowercase(), uri.port_u16().unwrap_or(default)))
}

/// Where a redirect leads: an address, or a path at the same server.
fn target(at: &Uri, location: &str) -> Option<Uri> {
    if !location.starts_with('/') || location.starts_with("//") {
        return location.parse().ok().filter(|uri| origin_of(uri).is_some());
    }
    let mut parts = at.clone().into_parts();
    parts.path_and_query = Some(location.parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// A file's name in an address (RFC 3986).
fn percent_encoded(name: &str) -> String {
    let encoded = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    name.bytes().map(encoded).collect()
}

/// The header that the token goes in.
fn authorization(environment: &Environment) -> Result<Option<HeaderValue>> {
    let (token, from) = match (&environment.token, &environment.token_file) {
        (Some(token), _) => (token.clone(), "HF_TOKEN".to_owned()),
        (None, Some(file)) if fs::exists(file).at(file)? => {
            (read_text(file, TOKEN)?.trim().to_owned(), file.display().to_string())
        }
        _ => return Ok(None),
    };
    if token.is_empty() {
        return Ok(None);
    }
    let value = Some(&token).filter(|token| token.chars().all(|c| c.is_ascii_graphic()));
    let value = value.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
    let Some(mut value) = value else {
        return Err(
            ModelError::key(from, "holds characters that no token has; `hf auth login` writes a new one").into()
        );
    };
    value.set_sensitive(true);
    Ok(Some(value))
}

/// The certificates of `SSL_CERT_FILE`.
fn certificates(environment: &Environment) -> Result<Option<RootCerts>> {
    /// A bundle of every authority is a few hundred kilobytes.
    const CERTIFICATES: Limit = Limit { kind: "a file of certificates", bytes: 16 << 20 };
    let Some(path) = &environment.certificates else { return Ok(None) };
    let bytes = read_bytes(path, CERTIFICATES)?;
    let certificate = |item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    };
    let found: Vec<Certificate<'static>> = parse_pem(&bytes).filter_map(certificate).collect();
    if found.is_empty() {
        return Err(ModelError::file(path, "holds no certificate in PEM, which SSL_CERT_FILE should name").into());
    }
    Ok(Some(RootCerts::new_with_certs(&found)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn a_redirect_leads_to_an_address_or_to_a_path_of_the_same_server() {
        let at = uri("https://hub.example:8443/a/b?c=d");
        assert_eq!(target(&at, "/x?y=z").unwrap(), "https://hub.example:8443/x?y=z");
        assert_eq!(target(&at, "http://other.example/x").unwrap(), "http://other.example/x");
        for none in ["", "x", "//other.example/x", "ftp://other.example/x", "file:///etc/passwd", "https://"] {
            assert!(target(&at, none).is_none(), "{none}");
        }
    }

    #[test]
    fn a_server_is_its_scheme_host_and_port() {
        assert_eq!(origin_of(&uri("https://Hub.example/a")), origin_of(&uri("https://hub.example:443/b")));
        for other in ["http://hub.example/a", "https://hub.example:444/a", "https://hub.example.org/a"] {
            assert_ne!(origin_of(&uri("https://hub.example/a")), origin_of(&uri(other)), "{other}");
        }
    }

    #[test]
    fn names_become_addresses_and_contents_become_names_only_where_they_can() {
        assert_eq!(percent_encoded("model-1_2.safetensors"), "model-1_2.safetensors");
        assert_eq!(percent_encoded("a b#?%/ä"), "a%20b%23%3F%25%2F%C3%A4");
        assert!(is_plain("0123abc-XYZ"));
        for bad in ["", "..", "a/b", "a.b", &"a".repeat(129)] {
            assert!(!is_plain(bad), "{bad}");
        }
    }
}
