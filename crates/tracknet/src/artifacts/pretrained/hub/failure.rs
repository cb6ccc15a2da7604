//! Why a download did not come to its end, and what to do.

use std::io;
use std::time::Duration;

use ureq::http::{Response, Uri};

use crate::console::shown;

/// What a request or a file of it met.
#[derive(Debug)]
pub(super) enum Failure {
    /// No connection, or one that broke off.
    Network {
        /// The server.
        host: String,
        /// What happened.
        cause: String,
        /// Whether a server had answered before.
        reached: bool,
    },
    /// A server refused.
    Refused(Refusal),
    /// A server answered as no hub does.
    Strange {
        /// What was asked for.
        url: String,
        /// What came.
        found: String,
    },
    /// What came is not what the hub said it is.
    Wrong {
        /// What was asked for.
        url: String,
        /// What came and what was expected.
        found: String,
    },
    /// A file of the cache cannot be written.
    Disk(io::Error),
}

/// The answer of a server that gave nothing.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    /// The status of HTTP.
    pub(super) status: u16,
    /// How long the server asks to wait.
    pub(super) retry_after: Duration,
    /// `X-Error-Code` of the hub: `GatedRepo`, `RepoNotFound`, `RevisionNotFound`, `EntryNotFound`.
    code: String,
    /// `X-Error-Message` of the hub.
    message: String,
    url: String,
    /// Whether the hub refused, not a storage that it sent to.
    at_hub: bool,
}

impl Refusal {
    pub(super) fn of<T>(answer: &Response<T>, url: &Uri, at_hub: bool) -> Self {
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        Self {
            status: answer.status().as_u16(),
            retry_after: Duration::from_secs(header("retry-after").parse().unwrap_or_default()),
            code: header("x-error-code").to_owned(),
            message: shown(header("x-error-message")),
            // What follows the path is the signature of a storage.
            url: format!("{}://{}{}", uri_part(url.scheme_str()), uri_part(url.host()), url.path()),
            at_hub,
        }
    }

    fn explain(&self, name: &str, endpoint: &str, has_token: bool) -> String {
        let Self { status, url, .. } = self;
        let said = if self.message.is_empty() { String::new() } else { format!(" ({})", self.message) };
        let token = "a token in HF_TOKEN, or `hf auth login`";
        match (*status, self.code.as_str()) {
            (401 | 403, "GatedRepo") => {
                let whose = if has_token { "with the account of your token" } else { "and give" };
                let whose = if has_token { whose.to_owned() } else { format!("{whose} {token}") };
                format!("`{name}` is gated{said}: accept its licence on {endpoint}/{name} {whose}, and try again")
            }
            (404, "RevisionNotFound") => format!("{endpoint} has `{name}`, but no revision `main` of it"),
            (404, "EntryNotFound") => format!("{endpoint} lists {url} and does not have it; try again later"),
            (404, _) if self.at_hub => {
                format!("{endpoint} has no model `{name}` at revision `main`{said}; check how it is written")
            }
            (401, _) if self.at_hub && has_token => format!(
                "{endpoint} has no model `{name}` for your token{said}: check how the name is written, and whether the \
                 token is valid (`hf auth whoami`) and may read the model"
            ),
            (401, _) if self.at_hub => {
                format!(
                    "{endpoint} has no public model `{name}`{said}: check how it is written; a private one needs {token}"
                )
            }
            (403, _) if self.at_hub => {
                format!(
                    "{endpoint} does not let you read `{name}`{said}: it needs {token}, of an account that may read it"
                )
            }
            (429, _) => format!(
                "{endpoint} has had too many requests{said}: wait a few minutes{}",
                if has_token { String::new() } else { format!(", or give {token}, which may make more") }
            ),
            _ => format!("{url} answered with status {status}{said}; try again later, or with `hf download {name}`"),
        }
    }
}

fn uri_part(part: Option<&str>) -> &str {
    part.unwrap_or_default()
}

impl Failure {
    pub(super) fn strange(url: &str, found: String) -> Self {
        Self::Strange { url: url.to_owned(), found: shown(&found) }
    }

    /// What happened and what to do, for the key that names the model `name`.
    pub(super) fn explain(&self, name: &str, endpoint: &str, has_token: bool) -> String {
        match self {
            Self::Network { host, cause, .. } if cause.contains("certificate") => format!(
                "{host} shows a certificate that is not trusted ({cause}): where a proxy shows its own, name the file of its \
                 authority in SSL_CERT_FILE; or run `hf download {name}` elsewhere and copy the cache"
            ),
            Self::Network { host, cause, reached: false } => format!(
                "`{name}` is not in the hub cache, and there is no connection to {host} ({cause}): run `hf download {name}` \
                 where there is one and copy the cache, or name a directory that holds the model"
            ),
            Self::Network { host, cause, .. } => format!(
                "the download of `{name}` from {host} broke off ({cause}); what has come is kept: run the same command again, \
                 or `hf download {name}`"
            ),
            Self::Refused(refusal) => refusal.explain(name, endpoint, has_token),
            Self::Strange { url, found } => format!(
                "{url} gave {found}; is HF_ENDPOINT the address of a hub? Get the model with `hf download {name}`, or name a \
                 directory that holds it"
            ),
            Self::Wrong { url, found } => format!(
                "{url} gave {found}; nothing of it is kept: try again, or get the model with `hf download {name}`"
            ),
            Self::Disk(cause) => cause.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, at_hub: bool, has_token: bool) -> String {
        let answer = Response::builder().status(status).header("x-error-message", "why").body(()).unwrap();
        let url = "https://storage.example/a?signature=secret".parse().unwrap();
        Failure::Refused(Refusal::of(&answer, &url, at_hub)).explain("org/tiny", "https://hub.example", has_token)
    }

    #[test]
    fn a_refusal_says_what_to_do_about_it_and_no_signature_of_a_storage() {
        for (status, at_hub, has_token, expected) in [
            (401, true, true, "whether the token is valid (`hf auth whoami`)"),
            (403, true, false, "it needs a token in HF_TOKEN, or `hf auth login`"),
            (429, true, false, "wait a few minutes, or give a token"),
            (429, true, true, "wait a few minutes"),
            (403, false, true, "https://storage.example/a answered with status 403"),
            (404, false, true, "https://storage.example/a answered with status 404"),
        ] {
            let message = refused(status, at_hub, has_token);
            assert!(message.contains(expected) && message.contains("why"), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn a_certificate_of_a_proxy_is_told_from_a_missing_network() {
        let of = |cause: &str| {
            let (host, cause) = ("hub.example".to_owned(), cause.to_owned());
            Failure::Network { host, cause, reached: false }.explain("org/tiny", "https://hub.example", false)
        };
        assert!(of("invalid peer certificate: UnknownIssuer").contains("SSL_CERT_FILE"));
        assert!(of("Connection refused").contains("there is no connection to hub.example (Connection refused)"));
    }
}
