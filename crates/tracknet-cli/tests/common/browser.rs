//! A headless Chromium that is driven over its DevTools protocol (chromedevtools.github.io/devtools-protocol): pages, keys, clicks,
//! pictures of the screen.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Message, WebSocket, connect};

/// The browser, which ends with this.
pub(crate) struct Browser {
    child: Child,
    socket: WebSocket<MaybeTlsStream<TcpStream>>,
    next: u64,
    _profile: TempDir,
}

/// A page of the browser.
pub(crate) struct Page(String);

/// How long a page may take for what it is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

impl Browser {
    /// Starts it; `None` on a machine without Chromium, unless the environment says `CI=true`: there it has to be.
    pub(crate) fn start() -> Option<Self> {
        let profile = tempfile::tempdir().unwrap();
        let names = ["chromium", "chromium-browser", "google-chrome"];
        let started = names.iter().find_map(|name| {
            let mut command = Command::new(name);
            // As root, and in the small shared memory of a container.
            command.args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
            ]);
            command.args(["--remote-debugging-port=0", "--window-size=1280,800", "--hide-scrollbars"]);
            command.arg(format!("--user-data-dir={}", profile.path().display())).arg("about:blank");
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().ok()
        });
        let Some(mut child) = started else {
            assert!(std::env::var_os("CI").is_none_or(|value| value != "true"), "chromium is not installed");
            return None;
        };
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let address = said.find_map(|line| Some(line.strip_prefix("DevTools listening on ")?.to_owned())).unwrap();
        // Whoever does not read its complaints blocks it.
        std::thread::spawn(move || said.for_each(drop));
        let (socket, _) = connect(address).unwrap();
        Some(Self { child, socket, next: 0, _profile: profile })
    }

    fn ask(&mut self, page: Option<&Page>, method: &str, params: Value) -> Value {
        self.next += 1;
        let mut message = json!({ "id": self.next, "method": method, "params": params });
        if let Some(Page(session)) = page {
            message["sessionId"] = session.as_str().into();
        }
        self.socket.send(Message::text(message.to_string())).unwrap();
        loop {
            let Message::Text(text) = self.socket.read().unwrap() else { continue };
            let mut answer: Value = serde_json::from_str(&text).unwrap();
            if answer["id"] == self.next {
                assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return answer["result"].take();
            }
        }
    }

    /// Opens a page.
    pub(crate) fn open(&mut self, url: &str) -> Page {
        let target = self.ask(None, "Target.createTarget", json!({ "url": url }))["targetId"].take();
        let attached = self.ask(None, "Target.attachToTarget", json!({ "targetId": target, "flatten": true }));
        Page(attached["sessionId"].as_str().unwrap().to_owned())
    }

    /// Loads a page again.
    pub(crate) fn reload(&mut self, page: &Page) {
        self.ask(Some(page), "Page.reload", json!({}));
    }

    /// The value of an expression in a page; of a promise, what it comes to.
    pub(crate) fn value(&mut self, page: &Page, expression: &str) -> Value {
        let params = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let mut answer = self.ask(Some(page), "Runtime.evaluate", params);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].take()
    }

    /// Waits until an expression is true; one that fails is not true yet.
    pub(crate) fn wait(&mut self, page: &Page, expression: &str) {
        let began = Instant::now();
        let guarded = format!("(() => {{ try {{ return !!({expression}); }} catch {{ return false; }} }})()");
        while self.value(page, &guarded) != true {
            assert!(began.elapsed() < PATIENCE, "never true: {expression}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Presses a key: a letter, or the name of another one.
    pub(crate) fn press(&mut self, page: &Page, key: &str) {
        let text = if key.len() == 1 { key } else { "" };
        for kind in ["keyDown", "keyUp"] {
            self.ask(Some(page), "Input.dispatchKeyEvent", json!({ "type": kind, "key": key, "text": text }));
        }
    }

    /// Clicks at a place of the window.
    pub(crate) fn click(&mut self, page: &Page, [x, y]: [f64; 2]) {
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            let params = json!({ "type": kind, "x": x, "y": y, "button": "left", "clickCount": 1 });
            self.ask(Some(page), "Input.dispatchMouseEvent", params);
        }
    }

    /// Writes what the page looks like as base64 of a PNG, which `base64 -d` makes a picture of.
    pub(crate) fn screenshot(&mut self, page: &Page, path: &Path) {
        let answer = self.ask(Some(page), "Page.captureScreenshot", json!({ "format": "png" }));
        std::fs::write(path, answer["data"].as_str().unwrap()).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
