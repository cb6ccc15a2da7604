//! Where to listen, within which limits, and who may ask.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::ServeError;

/// The fewest characters of a token.
pub const SHORTEST_TOKEN: usize = 16;

/// How a server works.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; port 0 lets the system choose.
    pub address: SocketAddr,
    /// What a request has to show as `Authorization: Bearer …`, if anything.
    pub token: Option<String>,
    /// Names beside `localhost` by which a server on the loopback may be called, as behind a proxy.
    pub hosts: Vec<String>,
    /// Folders whose adapters may be loaded while the server runs.
    pub adapter_folders: Vec<PathBuf>,
    /// The score from which a frame counts as having a ball, where a request says nothing.
    pub threshold: f32,
    /// How long a stop waits for videos.
    pub grace: Duration,
    /// Whether requests are not logged.
    pub quiet: bool,
    /// What one request and all of them may take.
    pub limits: Limits,
}

/// What one request and all of them may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most bytes of a body with pictures.
    pub body: u64,
    /// The most bytes of a body with a video.
    pub video: u64,
    /// The most pixels of a picture or of a frame of a video.
    pub pixels: u64,
    /// How long a request with pictures may take, from its head to its answer; a peer that neither sends nor takes anything for so
    /// long is left.
    pub timeout: Duration,
    /// How long the search of a video may take.
    pub video_timeout: Duration,
    /// The most pictures that wait or are being searched.
    pub queue: usize,
    /// The most pictures of one turn of the model.
    pub batch: usize,
    /// The most videos at once.
    pub videos: usize,
    /// The most connections.
    pub connections: usize,
    /// The most adapters of a run that are loaded by requests.
    pub adapters: usize,
}

impl Default for Limits {
    /// 20 MiB and 40 million pixels a picture, 2 GiB and an hour a video, 30 s, 64 pictures that wait, 8 at a time, 2 videos,
    /// 128 connections, 32 adapters.
    fn default() -> Self {
        Self {
            body: 20 << 20,
            video: 2 << 30,
            pixels: 40_000_000,
            timeout: Duration::from_secs(30),
            video_timeout: Duration::from_secs(3600),
            queue: 64,
            batch: 8,
            videos: 2,
            connections: 128,
            adapters: 32,
        }
    }
}

impl Options {
    /// # Errors
    /// An address that others reach, without a token; a token that is too short or that no header can carry.
    pub(crate) fn check(&self) -> Result<(), ServeError> {
        match &self.token {
            None if !self.address.ip().is_loopback() => Err(ServeError::NoToken { address: self.address }),
            Some(token) if token.len() < SHORTEST_TOKEN => Err(ServeError::Token(
                "is too short: expected at least 16 characters, as `openssl rand -hex 16` prints",
            )),
            Some(token) if !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Err(ServeError::Token("has characters that no HTTP header carries: expected visible ASCII, no spaces"))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a name can stand in the path of a URL and in a query, and means no file.
pub(crate) fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=64).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(address: &str, token: Option<&str>) -> Options {
        Options {
            address: address.parse().unwrap(),
            token: token.map(str::to_owned),
            hosts: Vec::new(),
            adapter_folders: Vec::new(),
            threshold: 0.5,
            grace: Duration::ZERO,
            quiet: true,
            limits: Limits::default(),
        }
    }

    #[test]
    fn what_others_reach_needs_a_token_that_is_one() {
        let check = |address, token| options(address, token).check().map_err(|e| e.to_string());
        let good = Some("0123456789abcdef");
        for (address, token) in [("127.0.0.1:0", None), ("[::1]:0", None), ("127.0.0.1:0", good), ("0.0.0.0:80", good)]
        {
            assert_eq!(check(address, token), Ok(()), "{address}");
        }
        for address in ["0.0.0.0:0", "[::]:0", "192.168.1.2:80"] {
            assert!(check(address, None).unwrap_err().contains("reached from other machines"), "{address}");
        }
        assert!(check("127.0.0.1:0", Some("0123456789abcde")).unwrap_err().contains("at least 16"));
        assert!(check("127.0.0.1:0", Some("0123456789 abcdef")).unwrap_err().contains("visible ASCII"));
    }

    #[test]
    fn names_are_no_paths() {
        for name in ["clay", "run-20260101-120000-s42", "a.b_C"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", ".", "..", ".hidden", "a/b", "a b", "ä", "a\n", &"x".repeat(65)] {
            assert!(!is_name(name), "{name}");
        }
    }
}
