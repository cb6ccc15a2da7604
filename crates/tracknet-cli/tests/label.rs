//! `tracknet label` in a real browser: labels are in the file before the page counts them, whatever ends the server.

// Helpers beside the tests: a failure there is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/browser.rs"]
mod browser;
mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};

use browser::{Browser, Page};
use common::{contains_all, ends, program, render_rallies, train};

/// The server, which is killed with this.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(dir: &Path, args: &[&str]) -> Self {
        let mut child = program(dir).arg("label").args(args).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let address = lines.into_iter().find_map(|line| {
            let (_, rest) = line.split_once("http://")?;
            Some(rest.split('/').next()?.to_owned())
        });
        Self { child, address: address.expect("the server does not say where it listens") }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    fn port(&self) -> &str {
        self.address.rsplit(':').next().unwrap()
    }

    /// Status and body of a request.
    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let host = if headers.contains("Host:") { String::new() } else { format!("Host: {}\r\n", self.address) };
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\n{host}{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A data set of two clips without labels, as `match`.
fn unlabelled(dir: &Path) {
    ends(
        0,
        dir,
        [
            "data", "generate", "match", "--games", "1", "--clips", "2", "--frames", "14", "--size", "320x180",
            "--seed", "3",
        ],
    );
    for clip in ["Clip1", "Clip2"] {
        fs::remove_file(dir.join("match/game1").join(clip).join("Label.csv")).unwrap();
    }
}

/// The rows of both clips.
fn rows(dir: &Path) -> Vec<String> {
    let read =
        |clip: &str| fs::read_to_string(dir.join("match/game1").join(clip).join("Label.csv")).unwrap_or_default();
    let of = |clip: &str| read(clip).lines().skip(1).map(|row| format!("{clip}/{row}")).collect::<Vec<_>>();
    [of("Clip1"), of("Clip2")].concat()
}

/// Labels the frame that a page shows: by a click at a place in the picture, every fifth as absent.
fn label(browser: &mut Browser, page: &Page, count: usize) {
    if count % 5 == 4 {
        browser.press(page, "a");
    } else {
        let at = browser.value(
            page,
            &format!(
                "(() => {{ const c = document.getElementById('main'), b = c.getBoundingClientRect(), f = fit(c, shown); draw();
                   return [b.left + at(f, [{}, 60])[0], b.top + at(f, [0, 60])[1]]; }})()",
                20 + 10 * count
            ),
        );
        browser.click(page, [at[0].as_f64().unwrap(), at[1].as_f64().unwrap()]);
    }
    browser.wait(page, &format!("labels.size === {} && !acting && about", count + 1));
}

#[test]
fn twenty_labels_survive_a_killed_server_and_two_pages_agree() {
    let Some(mut browser) = Browser::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    unlabelled(dir.path());
    let server = Server::start(dir.path(), &["match", "--port", "0"]);
    let page = browser.open(&server.url());
    browser.wait(&page, "shown && about && !acting && work.frames === 28");
    for count in 0..10 {
        label(&mut browser, &page, count);
        assert_eq!(rows(dir.path()).len(), count + 1, "it is in the file before the page counts it");
    }
    let (ten, port) = (rows(dir.path()), server.port().to_owned());
    drop(server); // as by kill -9
    assert_eq!(rows(dir.path()), ten);
    browser.press(&page, "a");
    browser.wait(&page, "document.getElementById('message').textContent.includes('nothing was saved')");
    assert_eq!(browser.value(&page, "labels.size"), 10);

    let server = Server::start(dir.path(), &["match", "--port", &port]);
    browser.reload(&page);
    browser.wait(&page, "shown && about && labels.size === 10");
    (10..20).for_each(|count| label(&mut browser, &page, count));
    let twenty = rows(dir.path());
    assert_eq!((twenty.len(), twenty.iter().filter(|row| row.ends_with(",0,,,")).count()), (20, 4), "{twenty:?}");
    for clip in ["Clip1", "Clip2"] {
        let of = twenty.iter().filter(|row| row.starts_with(clip)).count();
        assert!((8..=12).contains(&of), "labels do not spread: {twenty:?}");
    }
    // Clicks are within a pixel of where they were meant.
    let xs: Vec<f64> = twenty.iter().filter_map(|row| row.split(',').nth(2)?.parse().ok()).collect();
    assert!(xs.iter().all(|x| ((x - 20.0) / 10.0 - ((x - 20.0) / 10.0).round()).abs() < 0.1), "{xs:?}");

    browser.press(&page, "u");
    browser.wait(&page, "labels.size === 19 && !acting");
    assert_eq!(rows(dir.path()).len(), 19);
    let other = browser.open(&server.url());
    browser.wait(&other, "shown && about && labels.size === 19");
    label(&mut browser, &page, 19);
    browser.wait(&other, "labels.size === 20");
    browser.screenshot(&page, &Path::new(env!("CARGO_TARGET_TMPDIR")).join("label.png.b64"));
}

#[test]
fn only_the_page_of_the_server_may_change_labels_and_only_with_what_is_one() {
    let dir = tempfile::tempdir().unwrap();
    unlabelled(dir.path());
    let server = Server::start(dir.path(), &["match", "--port", "0"]);
    let json = "Content-Type: application/json\r\n";
    let good = r#"{"frame":3,"was":null,"label":{"visibility":1,"x":7.126,"y":0}}"#;
    for (headers, body, status) in [
        ("Host: evil.example\r\nContent-Type: application/json\r\n", good, 403),
        ("Origin: http://evil.example\r\nContent-Type: application/json\r\n", good, 403),
        ("Content-Type: text/plain\r\n", good, 415),
        (json, "{", 400),
        (json, r#"{"frame":3}x"#, 400),
        (json, r#"{"frame":3,"was":null,"label":{"visibility":9,"x":1,"y":1}}"#, 422),
        (json, r#"{"frame":3,"was":null,"label":{"visibility":1,"x":null,"y":1}}"#, 422),
        (json, r#"{"frame":3,"was":null,"label":{"visibility":0,"x":1,"y":1}}"#, 422),
        (json, r#"{"frame":28,"was":null,"label":{"visibility":0,"x":null,"y":null}}"#, 404),
        (json, r#"{"frame":3,"was":{"visibility":0,"x":null,"y":null},"label":null}"#, 409),
    ] {
        let (found, answer) = server.ask("POST", "/api/label", headers, body);
        assert_eq!(found, status, "{body} {answer}");
        assert_eq!(rows(dir.path()), Vec::<String>::new());
    }
    assert_eq!(server.ask("POST", "/api/label", json, good).0, 200);
    assert_eq!(rows(dir.path()), ["Clip1/0003.jpg,1,7.13,0,"]);
    let (_, changes) = server.ask("GET", "/api/changes?since=0", "", "");
    contains_all(&changes, &[r#""revision":1"#, r#""x":7.13"#]);
    for (path, status) in
        [("/frames/3", 200), ("/frames/99", 404), ("/frames/..%2f..", 400), ("/api/frame/99", 404), ("/nowhere", 404)]
    {
        assert_eq!(server.ask("GET", path, "", "").0, status, "{path}");
    }
    assert_eq!(server.ask("POST", "/api/train", json, "{}").0, 409);
    let second = program(dir.path()).args(["label", "match", "--port", server.port()]).output().unwrap();
    contains_all(&String::from_utf8_lossy(&second.stderr), &["cannot listen on 127.0.0.1:", "choose another port"]);
}

#[cfg(unix)]
#[test]
fn a_run_proposes_and_a_stopped_server_ends_with_the_signals_code() {
    let Some(mut browser) = Browser::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    render_rallies(dir.path(), 4);
    let run = dir.path().join(train(dir.path(), "vit_heatmap", &[])).display().to_string();
    unlabelled(dir.path());
    let mut server = Server::start(dir.path(), &["match", "--run", &run, "--port", "0"]);
    let page = browser.open(&server.url());
    browser.wait(&page, "about && about.proposal && document.getElementById('model').textContent.includes('28 of 28')");
    let proposal = browser.value(&page, "about.proposal");
    let frame = browser.value(&page, "frame").as_u64().unwrap() as usize;
    browser.press(&page, "Enter");
    browser.wait(&page, "labels.size === 1");
    let expected = format!("Clip{}/{:04}.jpg,", frame / 14 + 1, frame % 14);
    let row = rows(dir.path()).remove(0);
    assert!(row.starts_with(&expected), "{row} {expected}");
    let x: Option<f64> = row.split(',').nth(2).unwrap().parse().ok();
    assert_eq!(x.map(|x| (x * 10.0).round()), proposal["x"].as_f64().map(|x| (x * 10.0).round()), "{row} {proposal}");
    // The configuration of a training is of another model than this run's: that is said, and labelling goes on.
    assert_eq!(server.ask("POST", "/api/train", "Content-Type: application/json\r\n", "{}").0, 202);
    browser.wait(&page, "document.getElementById('training').textContent.startsWith('failed: ')");
    let status = std::process::Command::new("kill").args(["-TERM", &server.child.id().to_string()]).status();
    assert!(status.unwrap().success());
    assert_eq!(server.child.wait().unwrap().code(), Some(143));
}

#[test]
fn a_video_becomes_clips_of_frames_and_the_same_command_goes_on_with_them() {
    if std::env::var_os("TRACKNET_SKIP_FFMPEG").is_some_and(|value| value == "1") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", "testsrc=size=160x90:rate=25:duration=5", "rally.mp4"])
        .current_dir(dir.path())
        .status();
    assert!(status.unwrap().success());
    let args = ["rally.mp4", "--start", "10", "--stride", "2", "--port", "0"];
    let server = Server::start(dir.path(), &args);
    let clips: serde_json::Value = serde_json::from_str(&server.ask("GET", "/api/work", "", "").1).unwrap();
    assert_eq!((&clips["frames"], &clips["clips"][1]["name"]), (&58.into(), &"Clip002".into()));
    assert!(dir.path().join("data/rally/game1/Clip001/000010.jpg").is_file());
    let good = r#"{"frame":0,"was":null,"label":{"visibility":0,"x":null,"y":null}}"#;
    assert_eq!(server.ask("POST", "/api/label", "Content-Type: application/json\r\n", good).0, 200);
    drop(server);
    let server = Server::start(dir.path(), &args);
    contains_all(&server.ask("GET", "/api/frame/0", "", "").1, &["000010.jpg", r#""visibility":0"#]);
    drop(server);
    let [_, error] = ends(1, dir.path(), ["label", "nowhere.mp4"]);
    contains_all(&error, &["nowhere.mp4: no such file or directory"]);
    let [_, error] = ends(1, dir.path(), ["label", "data/rally", "--start", "5"]);
    contains_all(&error, &["are for videos"]);
}
