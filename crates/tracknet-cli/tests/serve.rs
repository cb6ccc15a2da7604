//! `tracknet serve` as its clients meet it: answers, limits, broken requests, and ends that lose nothing.

// Helpers beside the tests: a failure there is a failed test.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use common::http::{Answer, Server, form};
use common::{contains_all, ends, ok, render_rallies, train};

/// What is served; made once.
struct Made {
    dir: TempDir,
    /// Two runs with adapters on one base.
    runs: [String; 2],
    /// The files of a clip.
    pictures: Vec<PathBuf>,
    /// What `predict` finds on the first of them.
    row: Value,
}

impl Made {
    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Serves the first run.
    fn serve(&self, more: &[&str]) -> Server {
        Server::start(self.path(), &[&[self.runs[0].as_str()], more].concat())
    }

    fn picture(&self, index: usize) -> Vec<u8> {
        fs::read(&self.pictures[index]).unwrap()
    }
}

fn made() -> &'static Made {
    static MADE: OnceLock<Made> = OnceLock::new();
    MADE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        render_rallies(dir.path(), 4);
        let random = ["model.pretrained_model_name=null", "model.backbone.freeze=false", "training.seed=1"];
        let whole = train(dir.path(), "vit_heatmap", &random);
        ok(dir.path(), ["export", &whole, "base"]);
        let lora = |seed: &str| {
            train(
                dir.path(),
                "vit_lora_heatmap",
                &["model.pretrained_model_name=./base", seed, "training.optimizer.lr=0.02", "training.loss.name=focal"],
            )
        };
        let runs = [lora("training.seed=2"), lora("training.seed=3")];
        let clip = dir.path().join("rallies/game2/Clip1");
        let pictures = (0..4).map(|index| clip.join(format!("{index:04}.jpg"))).collect();
        // Where requests may load adapters from.
        for (run, name) in runs.iter().zip(["own", "other"]) {
            let (from, to) =
                (dir.path().join(run).join("checkpoints/best/adapter"), dir.path().join("adapters").join(name));
            fs::create_dir_all(&to).unwrap();
            for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
                fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
        let row = predicted(dir.path(), &runs[0], "rallies/game2/Clip1/0000.jpg", &[]).remove(0);
        Made { dir, runs, pictures, row }
    })
}

/// The rows of `tracknet predict`.
fn predicted(dir: &Path, run: &str, source: &str, more: &[&str]) -> Vec<Value> {
    let out = tempfile::tempdir().unwrap();
    let output = out.path().display().to_string();
    ok(dir, [&["predict", run, source, "--jsonl", "--output", &output, "--device", "cpu"], more].concat());
    let name = Path::new(source).file_stem().unwrap().to_str().unwrap();
    let text = fs::read_to_string(out.path().join(format!("{name}.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The same finding, but for the last digits of a turn with several pictures, and for names.
fn assert_same(found: &Value, expected: &Value) {
    assert_eq!(found["visible"], expected["visible"], "{found} {expected}");
    for key in ["x", "y", "score"] {
        let [found, expected] = [found, expected].map(|row| row[key].as_f64());
        let apart = found.unwrap_or(-1.0) - expected.unwrap_or(-1.0);
        assert!(apart.abs() < 1e-3, "{key}: {found:?} {expected:?}");
    }
}

/// Whether to leave out what needs ffmpeg: only where the environment says `TRACKNET_SKIP_FFMPEG=1`.
fn skipped() -> bool {
    std::env::var_os("TRACKNET_SKIP_FFMPEG").is_some_and(|value| value == "1")
}

/// The clip as a video, so many times.
fn encode(made: &Made, name: &str, times: usize) -> Vec<u8> {
    let status = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-y", "-stream_loop", &(times - 1).to_string()])
        .args(["-i", "rallies/game2/Clip1/%04d.jpg", "-pix_fmt", "yuv420p", "-g", "4", "-movflags", "faststart", name])
        .current_dir(made.path())
        .status();
    assert!(status.unwrap().success());
    fs::read(made.path().join(name)).unwrap()
}

#[test]
fn pictures_are_answered_as_predict_does_one_by_one_together_and_drawn() {
    let made = made();
    let server = made.serve(&["--threshold", "0.01"]);
    let picture = made.picture(0);
    let answer = server.post("/v1/predict", "image/jpeg", &picture).json(200);
    let expected = &predicted(made.path(), &made.runs[0], "rallies/game2/Clip1/0000.jpg", &["--threshold", "0.01"])[0];
    let row = &answer["predictions"][0];
    assert_eq!((&row["x"], &row["y"], &row["score"]), (&expected["x"], &expected["y"], &expected["score"]));
    assert_eq!((&row["visible"], &row["frame"], row.get("file")), (&json!(true), &json!(0), None));
    let name = Path::new(&made.runs[0]).file_name().unwrap().to_str().unwrap();
    assert_eq!((&answer["model"], &answer["adapter"]), (&json!(name), &Value::Null));

    // Several, one of which is damaged: it costs its own row.
    let all: Vec<Vec<u8>> = (0..4).map(|index| made.picture(index)).collect();
    let damaged = &all[2][..all[2].len() / 2];
    let (kind, body) = form(&[("a.jpg", &all[0]), ("b.jpg", &all[1]), ("c.jpg", damaged), ("d.jpg", &all[3])]);
    let answer = server.post("/v1/predict?candidates=3", &kind, &body).json(200);
    let rows = answer["predictions"].as_array().unwrap();
    assert_eq!(
        rows.iter().map(|row| row["file"].as_str().unwrap()).collect::<Vec<_>>(),
        ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    );
    assert_same(&rows[0], expected);
    assert!(rows[2]["error"].as_str().unwrap().contains("cannot decode") && rows[2]["visible"] == false, "{answer}");
    let candidates = rows[0]["candidates"].as_array().unwrap();
    assert!((1..=3).contains(&candidates.len()) && candidates[0]["x"] == rows[0]["x"], "{answer}");

    for (path, accept) in [("/v1/predict?output=overlay", "*/*"), ("/v1/predict", "image/png")] {
        let headers = ["Content-Type: image/jpeg", &format!("Accept: {accept}")];
        let drawn = server.ask("POST", path, &headers, &picture);
        assert_eq!((drawn.status, drawn.header("content-type")), (200, Some("image/png")));
        let drawn = image::load_from_memory(&drawn.body).unwrap().into_rgb8();
        let plain = image::load_from_memory(&picture).unwrap().into_rgb8();
        assert_eq!(drawn.dimensions(), plain.dimensions());
        assert!(drawn != plain, "nothing is drawn");
    }

    assert_eq!(server.get("/healthz").json(200)["status"], "ok");
    assert_eq!(server.get("/openapi.json").json(200)["openapi"], "3.1.0");
    let models = server.get("/v1/models").json(200);
    assert_eq!(
        models["models"][0],
        json!({"name": name, "default": true, "input_size": [96, 64], "frames": 1, "adapters": []})
    );
    let metrics = server.get("/metrics").text();
    contains_all(
        &metrics,
        &[
            "tracknet_requests_total{route=\"/v1/predict\",method=\"POST\",status=\"200\"} 4",
            "tracknet_pictures_total 6",
            "tracknet_queue_length 0",
        ],
    );
}

#[test]
fn what_makes_no_sense_is_refused_with_its_reason_and_harms_nobody() {
    let made = made();
    let server = made.serve(&["--max-body", "50KiB", "--max-pixels", "7000", "--timeout", "2s"]);
    let picture = made.picture(0);
    let jpeg = "image/jpeg";
    let refused = |answer: Answer, status: u16, reason: &str| {
        let problem = answer.json(status);
        assert!(problem["detail"].as_str().unwrap().contains(reason), "{problem}");
    };
    for (path, status, reason) in [
        ("/v1/predict?threshold=2", 422, "expected a number from 0 to 1"),
        ("/v1/predict?threshold=abc", 422, "threshold"),
        ("/v1/predict?treshold=0.5", 422, "treshold"),
        ("/v1/predict?candidates=0", 422, "expected 1 to 16"),
        ("/v1/predict?model=none", 404, "no model is called `none`"),
        ("/v1/predict?adapter=none", 404, "is called `none`"),
        ("/v2/predict", 404, "/openapi.json"),
        ("/v1/models", 405, "method"),
    ] {
        refused(server.post(path, jpeg, &picture), status, reason);
    }
    assert_eq!(server.post("/v1/models", jpeg, &picture).header("allow"), Some("GET,HEAD"));
    let (kind, two) = form(&[("a", &picture), ("b", &picture)]);
    let (_, none) = form(&[]);
    refused(server.post("/v1/predict", "text/plain", &picture), 415, "text/plain");
    refused(server.post("/v1/predict", jpeg, b""), 400, "empty");
    refused(server.post("/v1/predict", jpeg, b"\xff\xd8\xff\xe0half"), 400, "cannot decode");
    refused(server.post("/v1/predict", jpeg, &picture[..picture.len() - 20]), 400, "cannot decode");
    refused(server.post("/v1/predict", "multipart/form-data", &two), 400, "boundary");
    refused(server.post("/v1/predict", &kind, &two[..two.len() - 40]), 400, "not whole");
    refused(server.post("/v1/predict", &kind, &none), 400, "no part `file`");
    refused(server.post("/v1/predict?output=overlay", &kind, &two), 422, "of one picture");
    let mut large = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut large);
    image::RgbImage::new(100, 71).write_with_encoder(encoder).unwrap();
    refused(server.post("/v1/predict", "image/png", &large), 413, "100×71");

    // A body that is too large, whether it says so or not, and one that does not come.
    refused(server.post("/v1/predict", jpeg, &vec![0; 100 << 10]), 413, "more than 51200 bytes");
    let chunked = "Transfer-Encoding: chunked";
    let head = format!(
        "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {jpeg}\r\n{chunked}\r\n\r\n"
    );
    let chunk = [b"10000\r\n".as_slice(), &[0; 0x10000], b"\r\n0\r\n\r\n"].concat();
    refused(server.send(&[head.as_bytes(), &chunk].concat()), 413, "more than 51200 bytes");
    let head = server.head("POST", "/v1/predict", &["Content-Type: image/jpeg"], 1000);
    let start = Instant::now();
    refused(server.send(&[head.as_bytes(), b"abc"].concat()), 408, "3 bytes");
    assert!(start.elapsed() < Duration::from_secs(20));

    // Pages of other sites.
    let host = |name: &str| format!("GET /v1/models HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    refused(server.send(host("evil.example").as_bytes()), 403, "evil.example");
    refused(server.ask("GET", "/v1/models", &["Origin: http://evil.example"], b""), 403, "evil.example");
    assert_eq!(server.send(host("localhost").as_bytes()).status, 200);

    // What is no HTTP.
    for garbage in
        [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(), b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
    {
        let mut stream = server.connect();
        stream.write_all(garbage).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let found = server.post("/v1/predict", jpeg, &picture).json(200);
    assert_same(&found["predictions"][0], &made.row);
    let (code, said) = {
        server.signal("INT");
        server.wait()
    };
    assert_eq!(code, Some(130), "{said}");
    contains_all(&said, &["POST /v1/predict 413", "POST /v1/predict 200", "GET /v1/models 403"]);
}

#[test]
fn what_others_reach_needs_a_token() {
    let made = made();
    let [_, said] = ends(1, made.path(), ["serve", &made.runs[0], "--host", "0.0.0.0", "--port", "0"]);
    contains_all(&said, &["0.0.0.0:0 can be reached from other machines", "TRACKNET_TOKEN"]);
    let [_, said] = ends(1, made.path(), ["serve", &made.runs[0], "--port", "0", "--token", "short"]);
    contains_all(&said, &["token is too short"]);
    let token = "0123456789abcdef0123456789abcdef";
    let server = made.serve(&["--token", token]);
    assert_eq!(server.get("/healthz").status, 200);
    for (header, status) in [
        (format!("Authorization: Bearer {token}"), 200),
        (format!("Authorization: bearer {token}"), 200),
        (format!("Authorization: Bearer {}", &token[1..]), 401),
        (format!("Authorization: Basic {token}"), 401),
        ("Accept: */*".to_owned(), 401),
    ] {
        let answer = server.ask("GET", "/v1/models", &[&header], b"");
        assert_eq!(answer.status, status, "{header}");
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401);
    }
    for path in ["/metrics", "/openapi.json", "/nothing"] {
        assert_eq!(server.get(path).status, 401, "{path}");
    }
}

#[test]
fn adapters_are_loaded_asked_for_and_dropped_by_name() {
    let made = made();
    let other = format!("{}/checkpoints/best/adapter", made.runs[1]);
    let server = made.serve(&["--adapter", &format!("first={other}"), "--adapters", "adapters", "--max-adapters", "2"]);
    let picture = made.picture(0);
    let score = |adapter: &str| {
        let found = server.post(&format!("/v1/predict{adapter}"), "image/jpeg", &picture).json(200);
        found["predictions"][0]["score"].as_f64().unwrap()
    };
    let flags = ["--adapter", other.as_str()];
    let expected = &predicted(made.path(), &made.runs[0], "rallies/game2/Clip1/0000.jpg", &flags)[0];
    let [own, with_other] = [score(""), score("?adapter=first")];
    assert!((own - made.row["score"].as_f64().unwrap()).abs() < 1e-6);
    assert!((with_other - expected["score"].as_f64().unwrap()).abs() < 1e-6);
    assert!((own - with_other).abs() > 1e-4, "the adapters do not differ: {own} {with_other}");

    let put = |name: &str, path: &str| {
        let body = json!({ "path": path }).to_string();
        server.ask("PUT", &format!("/v1/adapters/{name}"), &["Content-Type: application/json"], body.as_bytes())
    };
    assert_eq!(put("second", "own").json(201)["name"], "second");
    assert!((score("?adapter=second") - own).abs() < 1e-6);
    // Another in its place, and once more: names of adapters are not used up.
    for path in ["other", "own", "other"] {
        put("second", path).json(200);
    }
    assert!((score("?adapter=second") - with_other).abs() < 1e-6);
    put("third", "own").json(201);
    contains_all(&put("fourth", "own").json(409).to_string(), &["2 adapters are loaded already"]);
    let listed = server.get("/v1/adapters").json(200);
    let expected = json!([
        {"name": "first", "path": null}, {"name": "second", "path": "other"}, {"name": "third", "path": "own"}
    ]);
    assert_eq!(listed["adapters"], expected);

    // Side by side, each answer is that of its adapter.
    std::thread::scope(|scope| {
        for (adapter, expected) in [("", own), ("?adapter=second", with_other), ("?adapter=third", own)] {
            let score = &score;
            for _ in 0..4 {
                scope.spawn(move || {
                    (0..4).for_each(|_| assert!((score(adapter) - expected).abs() < 1e-4, "{adapter}"));
                });
            }
        }
    });

    for (name, path, status) in [
        ("x", "../runs", 422),
        ("x", "/etc", 422),
        ("x", "nothing", 422),
        ("x", "own/adapter_config.json", 422),
        (".x", "own", 422),
        ("a%2Fb", "own", 422),
    ] {
        assert_eq!(put(name, path).status, status, "{name} {path}");
    }
    let body = |text: &str, kind: &str| server.ask("PUT", "/v1/adapters/x", &[kind], text.as_bytes()).status;
    let kind = "Content-Type: application/json";
    assert_eq!([body("{", kind), body("{}", kind), body("{\"path\":\"own\"}", "Accept: */*")], [400, 422, 415]);

    let dropped = |name: &str| server.ask("DELETE", &format!("/v1/adapters/{name}"), &[], b"").status;
    assert_eq!([dropped("second"), dropped("second"), dropped("first")], [204, 404, 204]);
    server.post("/v1/predict?adapter=second", "image/jpeg", &picture).json(404);
    put("fourth", "own").json(201);
}

#[test]
fn videos_give_the_rows_of_predict_as_they_are_found_or_the_video_with_the_ball_ringed() {
    if skipped() {
        return;
    }
    let made = made();
    let video = encode(made, "rally.mp4", 5);
    let server = made.serve(&["--max-video", "1MiB"]);
    for (query, flags) in [("", &[][..]), ("?track=true&threshold=0.01", &["--track", "--threshold", "0.01"])] {
        let answer = server.post(&format!("/v1/predict/video{query}"), "video/mp4", &video);
        assert!(answer.whole);
        let expected = predicted(made.path(), &made.runs[0], "rally.mp4", flags);
        assert_eq!(answer.rows(), expected);
        assert_eq!(expected.len(), 20);
    }
    let (kind, body) = form(&[("rally.mp4", &video)]);
    assert_eq!(server.post("/v1/predict/video", &kind, &body).rows().len(), 20);
    let drawn = server.post("/v1/predict/video?output=overlay", "video/mp4", &video);
    assert_eq!((drawn.status, drawn.header("content-type"), drawn.whole), (200, Some("video/mp4"), true));
    let path = made.path().join("drawn.mp4");
    fs::write(&path, &drawn.body).unwrap();
    let info = tracknet::inference::VideoTools::default().probe(&path).unwrap();
    assert_eq!((info.size, info.frames), (Some([96, 64]), Some(20)));

    let refused = |answer: Answer, status: u16, reason: &str| {
        let problem = answer.json(status);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(reason) && !detail.contains("tracknet-serve"), "{problem}");
    };
    refused(server.post("/v1/predict/video", "video/mp4", b"no video"), 400, "the video");
    refused(server.post("/v1/predict/video", "video/mp4", b""), 400, "empty");
    refused(server.post("/v1/predict/video", "image/jpeg", &video), 415, "image/jpeg");
    refused(server.post("/v1/predict/video", "video/mp4", &vec![0; 2 << 20]), 413, "more than 1048576 bytes");
    // One that is cut off gives what can be read, and says what is missing.
    let cut = server.post("/v1/predict/video", "video/mp4", &video[..video.len() * 7 / 10]);
    let rows = cut.rows();
    let (last, found) = rows.split_last().unwrap();
    assert!(found.len() >= 8 && found.iter().all(|row| row.get("frame").is_some()), "{rows:?}");
    assert!(last["detail"].as_str().unwrap().contains("cut off or damaged"), "{last}");
    // The place of a video is free a moment after its answer has ended.
    let is_free = || server.get("/metrics").text().contains("tracknet_videos 0");
    assert!((0..100).any(|_| is_free() || {
        std::thread::sleep(Duration::from_millis(50));
        false
    }));
}

#[test]
fn a_full_queue_refuses_and_a_stop_loses_nothing_that_was_accepted() {
    let made = made();
    let server = made.serve(&["--queue", "4", "--batch", "1", "--quiet"]);
    let picture = made.picture(0);
    // Requests whose last byte is missing: they wait for no place yet, and have been accepted.
    let head = server.head("POST", "/v1/predict", &["Content-Type: image/jpeg"], picture.len());
    let (last, most) = picture.split_last().unwrap();
    let mut streams: Vec<_> = (0..40).map(|_| server.connect()).collect();
    for stream in &mut streams {
        stream.write_all(&[head.as_bytes(), most].concat()).unwrap();
    }
    std::thread::sleep(Duration::from_millis(200));
    #[cfg(unix)]
    server.signal("TERM");
    std::thread::sleep(Duration::from_millis(100));
    for stream in &mut streams {
        stream.write_all(&[*last]).unwrap();
    }
    let answers: Vec<Answer> = streams.iter_mut().map(Answer::read).collect();
    let with = |status: u16| answers.iter().filter(|answer| answer.status == status).collect::<Vec<_>>();
    assert_eq!(with(200).len() + with(429).len(), 40, "{:?}", answers.iter().map(|a| a.status).collect::<Vec<_>>());
    assert!(with(200).len() >= 4);
    for answer in with(200) {
        assert_same(&answer.json(200)["predictions"][0], &made.row);
    }
    for answer in with(429) {
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    #[cfg(unix)]
    assert_eq!(server.wait(), (Some(143), String::new()));
}

#[cfg(unix)]
#[test]
fn a_video_that_is_cut_by_a_stop_or_a_kill_has_told_only_what_is_true() {
    if skipped() {
        return;
    }
    let made = made();
    let video = encode(made, "long.mp4", 1000);
    let expected = predicted(made.path(), &made.runs[0], "long.mp4", &[]);
    for (signal, code) in [("INT", Some(130)), ("KILL", None)] {
        let server = made.serve(&["--grace", "300ms", "--quiet"]);
        let head = server.head("POST", "/v1/predict/video", &["Content-Type: video/mp4"], video.len());
        let mut stream = server.connect();
        stream.write_all(&[head.as_bytes(), &video].concat()).unwrap();
        let mut first = [0; 4096];
        let read = stream.read(&mut first).unwrap();
        server.signal(signal);
        let mut bytes = first[..read].to_vec();
        let _ = stream.read_to_end(&mut bytes);
        let answer = Answer::parse(&bytes);
        let mut rows = answer.rows();
        if code.is_some() {
            assert!(answer.whole);
            assert_eq!(rows.pop().unwrap()["error"], "stopping");
        } else {
            assert!(!answer.whole);
        }
        assert!(!rows.is_empty() && rows.len() < expected.len(), "{}", rows.len());
        assert_eq!(rows, expected[..rows.len()]);
        assert_eq!(server.wait().0, code);
    }
}
