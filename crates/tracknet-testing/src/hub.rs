//! A server on the loopback that speaks the protocol of the Hugging Face hub: what a revision holds, what files are, and
//! their bytes, those of large files from a storage at another port.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use sha2::{Digest, Sha256};

/// The commit that the main branch is at.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The server. It answers until the program ends.
pub struct Hub {
    shared: Arc<Shared>,
    endpoint: String,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Whether the storage was asked, not the hub.
    pub at_storage: bool,
    /// `GET` or `HEAD`.
    pub method: String,
    /// The path, with what follows it.
    pub path: String,
    /// The offset of `Range`.
    pub from: Option<u64>,
    /// The token.
    pub token: Option<String>,
    /// Bytes of the body that were sent.
    pub sent: u64,
}

/// How the server misbehaves.
#[derive(Debug, Clone, Default)]
pub struct Behaviour {
    /// Whether files need this token.
    pub gated: Option<String>,
    /// After how many bytes the storage ends its next connections; those after them are served whole.
    pub breaks: Vec<u64>,
    /// Whether the bytes of large files are others than the hub says.
    pub corrupt: bool,
    /// Whether ranges are not known.
    pub no_ranges: bool,
    /// Requests that are answered with status 503 before the others.
    pub unavailable: u32,
    /// Whether files are asked for at another path of the hub, as after a model was renamed.
    pub moved: bool,
}

struct Shared {
    name: String,
    files: BTreeMap<String, Vec<u8>>,
    storage: String,
    behaviour: Mutex<Behaviour>,
    asked: Mutex<Vec<Asked>>,
}

impl Hub {
    /// Starts a hub with one model.
    pub fn start<'a>(name: &str, files: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> Self {
        let [hub, storage] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [endpoint, storage_address] =
            [&hub, &storage].map(|listener| format!("http://{}", listener.local_addr().unwrap()));
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            files: files.into_iter().map(|(file, bytes)| (file.to_owned(), bytes)).collect(),
            storage: storage_address,
            behaviour: Mutex::default(),
            asked: Mutex::default(),
        });
        for (listener, at_storage) in [(hub, false), (storage, true)] {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let shared = Arc::clone(&shared);
                    // A client may go away in the middle of an answer.
                    thread::spawn(move || shared.serve(stream, at_storage).ok());
                }
            });
        }
        Self { shared, endpoint }
    }

    /// The address, as `HF_ENDPOINT` has it.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Changes how the server answers from now on.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.shared.behaviour.lock().unwrap());
    }

    /// What was asked for so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// The bytes that the storage has sent.
    pub fn sent_by_storage(&self) -> u64 {
        self.asked().iter().filter(|asked| asked.at_storage).map(|asked| asked.sent).sum()
    }
}

/// What an answer is made of.
struct Answer {
    status: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: &'static str) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream, at_storage: bool) -> std::io::Result<()> {
        let mut asked =
            Asked { at_storage, method: String::new(), path: String::new(), from: None, token: None, sent: 0 };
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let first = lines.next().transpose()?.unwrap_or_default();
        if let [method, path, _] = first.split(' ').collect::<Vec<_>>()[..] {
            (asked.method, asked.path) = (method.to_owned(), path.to_owned());
        }
        for line in lines {
            let line = line?;
            let Some((name, value)) = line.split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "range" => asked.from = value.trim_start_matches("bytes=").trim_end_matches('-').parse().ok(),
                "authorization" => asked.token = value.strip_prefix("Bearer ").map(str::to_owned),
                _ => {}
            }
        }
        let answer = if at_storage { self.storage(&asked) } else { self.hub(&asked) };
        let is_head = asked.method == "HEAD";
        let number = {
            let mut all = self.asked.lock().unwrap();
            all.push(asked);
            all.len() - 1
        };
        let mut text = format!("HTTP/1.1 {}\r\nConnection: close\r\n", answer.status);
        text += &format!("Content-Length: {}\r\n", answer.body.len());
        for (name, value) in &answer.headers {
            text += &format!("{name}: {value}\r\n");
        }
        stream.write_all((text + "\r\n").as_bytes())?;
        if is_head {
            return Ok(());
        }
        let breaks = &mut self.behaviour.lock().unwrap().breaks;
        let most = if at_storage && !breaks.is_empty() { breaks.remove(0) as usize } else { answer.body.len() };
        let most = most.min(answer.body.len());
        for piece in answer.body[..most].chunks(1 << 14) {
            self.asked.lock().unwrap()[number].sent += piece.len() as u64;
            stream.write_all(piece)?;
        }
        Ok(())
    }

    fn hub(&self, asked: &Asked) -> Answer {
        let behaviour = {
            let mut behaviour = self.behaviour.lock().unwrap();
            let now = behaviour.clone();
            behaviour.unavailable = now.unavailable.saturating_sub(1);
            now
        };
        if behaviour.unavailable > 0 {
            return Answer::new("503 Service Unavailable");
        }
        let path = asked.path.split('?').next().unwrap_or_default();
        if let Some(name) = path.strip_prefix("/api/models/") {
            let name = name.split("/revision/").next().unwrap_or_default();
            return if name == self.name { self.listing() } else { Self::unknown(asked) };
        }
        let (moved, path) = match path.strip_prefix("/moved") {
            Some(path) => (true, path),
            None => (false, path),
        };
        let Some((name, rest)) = path[1..].split_once("/resolve/") else { return Answer::new("404 Not Found") };
        if name != self.name {
            return Self::unknown(asked);
        }
        if behaviour.gated.is_some() && asked.token != behaviour.gated {
            let status = if asked.token.is_some() { "403 Forbidden" } else { "401 Unauthorized" };
            return Answer::new(status)
                .with("X-Error-Code", "GatedRepo")
                .with("X-Error-Message", format!("Access to model {name} is restricted."));
        }
        let file = rest.split_once('/').map_or("", |(_, file)| file);
        let Some(bytes) = self.files.get(file) else {
            return Answer::new("404 Not Found").with("X-Error-Code", "EntryNotFound");
        };
        if behaviour.moved && !moved {
            return Answer::new("307 Temporary Redirect").with("Location", format!("/moved{path}"));
        }
        let hash = sha256(bytes);
        if !is_large(file) {
            let body = Answer::new("200 OK").with("ETag", format!("\"{}\"", &hash[..40])).with("X-Repo-Commit", COMMIT);
            return part(body, bytes, asked.from.filter(|from| *from > 0));
        }
        Answer::new("302 Found")
            .with("Location", format!("{}/{file}?signature=x", self.storage))
            .with("X-Repo-Commit", COMMIT)
            .with("X-Linked-Etag", format!("\"{hash}\""))
            .with("X-Linked-Size", bytes.len().to_string())
            .with("ETag", "\"of the redirect\"")
    }

    fn listing(&self) -> Answer {
        let files: Vec<String> = self.files.keys().map(|file| format!("{{\"rfilename\": \"{file}\"}}")).collect();
        let text =
            format!("{{\"id\": \"{}\", \"sha\": \"{COMMIT}\", \"siblings\": [{}]}}", self.name, files.join(", "));
        let mut answer = Answer::new("200 OK").with("Content-Type", "application/json");
        answer.body = text.into_bytes();
        answer
    }

    /// Models that are not there and private ones look the same without a token.
    fn unknown(asked: &Asked) -> Answer {
        let status = if asked.token.is_some() { "404 Not Found" } else { "401 Unauthorized" };
        Answer::new(status).with("X-Error-Code", "RepoNotFound").with("X-Error-Message", "Repository not found")
    }

    fn storage(&self, asked: &Asked) -> Answer {
        let behaviour = self.behaviour.lock().unwrap().clone();
        let file = asked.path.split('?').next().unwrap_or_default().trim_start_matches('/');
        let Some(bytes) = self.files.get(file) else { return Answer::new("403 Forbidden") };
        let mut bytes = bytes.clone();
        if behaviour.corrupt {
            bytes.iter_mut().for_each(|byte| *byte ^= 1);
        }
        part(Answer::new("200 OK"), &bytes, asked.from.filter(|_| !behaviour.no_ranges))
    }
}

/// An answer with the bytes from an offset on.
fn part(mut answer: Answer, bytes: &[u8], from: Option<u64>) -> Answer {
    let Some(from) = from else {
        answer.body = bytes.to_vec();
        return answer;
    };
    let Some(rest) = bytes.get(from as usize..).filter(|rest| !rest.is_empty()) else {
        return Answer::new("416 Range Not Satisfiable");
    };
    answer.status = "206 Partial Content";
    answer.body = rest.to_vec();
    answer.with("Content-Range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len()))
}

fn is_large(file: &str) -> bool {
    [".safetensors", ".bin"].iter().any(|end| file.ends_with(end))
}

/// SHA-256 in hexadecimal, which names a large file.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
