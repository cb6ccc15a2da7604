//! `tracknet serve`: trained runs behind HTTP.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use tracknet::artifacts::run::find_adapter;
use tracknet::console;
use tracknet::inference::Session;
use tracknet_serve::{Limits, Model, Options, Server};

use crate::args::{BaseArgs, DeviceArgs, parse_count, parse_score};
use crate::device;
use crate::interrupt::Interrupt;
use crate::out::outln;

/// Serve trained runs over HTTP: pictures and videos in, positions or overlays out.
///
/// Says where it listens once every run is loaded; GET /openapi.json there describes all paths, docs/serve.md shows them with curl.
/// Ctrl-C or SIGTERM ends it when everything that was accepted is answered; a second one ends it at once. What can be reached from
/// other machines needs a token.
#[derive(Args)]
#[command(after_help = "Examples:
  tracknet serve outputs/run-20260101-120000-s42
  tracknet serve broadcast=outputs/run-a beach=outputs/run-b --adapter clay=my-adapter --adapters adapters/
  TRACKNET_TOKEN=$(openssl rand -hex 16) tracknet serve outputs/run-a --host 0.0.0.0 --port 80

  curl -H 'Content-Type: image/jpeg' --data-binary @frame.jpg http://127.0.0.1:8000/v1/predict")]
pub(crate) struct ServeArgs {
    /// Run directories, or checkpoints of them. Requests call them by the name of the directory, or by the one that is given; the
    /// first is the default.
    #[arg(required = true, value_name = "[NAME=]RUN")]
    runs: Vec<String>,
    /// An adapter for the first run, by the name that requests will use: a directory, or the name of one in the run. May be repeated.
    #[arg(long = "adapter", value_name = "NAME=DIR")]
    named: Vec<String>,
    /// A folder below which requests may load adapters while the server runs. May be repeated.
    #[arg(long = "adapters", value_name = "DIR")]
    folders: Vec<PathBuf>,
    /// The address to listen on, or the name of this machine there.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// The port to listen on; 0 takes one that is free.
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// What requests have to show as `Authorization: Bearer TOKEN`; better given as TRACKNET_TOKEN, which other users do not see.
    #[arg(long)]
    token: Option<String>,
    /// A name beside localhost by which requests may call a server on the loopback, as behind a proxy. May be repeated.
    #[arg(long = "allow-host", value_name = "NAME")]
    hosts: Vec<String>,
    /// Score from which a frame counts as having a ball, where a request does not say.
    #[arg(long, default_value_t = 0.5, value_parser = parse_score)]
    threshold: f32,
    /// The largest body with pictures.
    #[arg(long, value_name = "SIZE", default_value = "20MiB", value_parser = parse_size)]
    max_body: u64,
    /// The largest body with a video.
    #[arg(long, value_name = "SIZE", default_value = "2GiB", value_parser = parse_size)]
    max_video: u64,
    /// The most pixels of a picture, or of a frame of a video.
    #[arg(long, value_name = "N", default_value_t = 40_000_000, value_parser = clap::value_parser!(u64).range(1..=178_000_000))]
    max_pixels: u64,
    /// How long a request with pictures may take; whoever neither sends nor takes anything for so long is left, too.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_time)]
    timeout: Duration,
    /// How long the search of a video may take.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_time)]
    video_timeout: Duration,
    /// How many pictures may wait; more are refused with 429.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = parse_count)]
    queue: usize,
    /// The most pictures that go through the model together.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = parse_count)]
    batch: usize,
    /// How many videos may be searched at once; more are refused with 429.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = parse_count)]
    videos: usize,
    /// How many connections may be open; more wait.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = parse_count)]
    max_connections: usize,
    /// How many adapters requests may have loaded, for each run.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = parse_count)]
    max_adapters: usize,
    /// How long a stop waits for videos; then they end with the rows at hand.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_time)]
    grace: Duration,
    /// Do not log requests.
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    base: BaseArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

pub(crate) fn run(args: &ServeArgs) -> Result<ExitCode> {
    let interrupt = Interrupt::listen()?;
    // Nothing is accepted yet that a signal could lose.
    interrupt.end_at_once(true);
    let server = Server::bind(options(args)?)?;
    let models = models(args)?;
    interrupt.end_at_once(false);
    let address = server.address()?;
    // Whoever started it may not care where it listens.
    let told = outln!("listening on http://{address}");
    let whole = server.run(models, interrupt.stop.clone())?;
    if !whole {
        console::say("some connections did not come to their end in time and were cut");
    }
    match interrupt.exit_code_if_any() {
        Some(code) => Ok(code),
        None => told.map(|()| ExitCode::SUCCESS),
    }
}

fn options(args: &ServeArgs) -> Result<Options> {
    let token = args.token.clone().or_else(|| std::env::var("TRACKNET_TOKEN").ok()).filter(|token| !token.is_empty());
    Ok(Options {
        address: address(&args.host, args.port)?,
        token,
        hosts: args.hosts.clone(),
        adapter_folders: args.folders.clone(),
        threshold: args.threshold,
        grace: args.grace,
        quiet: args.quiet,
        limits: Limits {
            body: args.max_body,
            video: args.max_video,
            pixels: args.max_pixels,
            timeout: args.timeout,
            video_timeout: args.video_timeout,
            queue: args.queue,
            batch: args.batch,
            videos: args.videos,
            connections: args.max_connections,
            adapters: args.max_adapters,
        },
    })
}

fn address(host: &str, port: u16) -> Result<SocketAddr> {
    let found = (host, port).to_socket_addrs().with_context(|| format!("--host {host}"))?.next();
    found.with_context(|| format!("--host {host}: this name has no address"))
}

/// Loads the runs, and the adapters of the command line.
fn models(args: &ServeArgs) -> Result<Vec<Model>> {
    if args.base.base.is_some() && args.runs.len() > 1 {
        bail!("--base is the backbone of one run: serve each run whose base was moved from a process of its own");
    }
    let device = device::resolve(&args.device.device)?;
    let mut models = Vec::new();
    for run in &args.runs {
        let (name, path) = named_run(run)?;
        let session = Session::open(&path, args.base.base.as_deref(), &device)?;
        let model = Model::new(&name, session)?;
        if models.is_empty() {
            for adapter in &args.named {
                let Some((name, dir)) =
                    adapter.split_once('=').filter(|(name, dir)| !name.is_empty() && !dir.is_empty())
                else {
                    bail!("--adapter {adapter}: expected NAME=DIR");
                };
                let loaded =
                    find_adapter(&path, dir).map_err(Into::into).and_then(|dir| model.load_adapter(name, &dir));
                loaded.with_context(|| format!("--adapter {adapter}"))?;
            }
        }
        models.push(model);
    }
    Ok(models)
}

/// What a run is called, and where it is. A directory whose name has an `=` in it is meant as a whole.
fn named_run(run: &str) -> Result<(String, PathBuf)> {
    if let Some((name, path)) = run.split_once('=').filter(|_| !Path::new(run).exists()) {
        return Ok((name.to_owned(), path.into()));
    }
    let path = PathBuf::from(run);
    // `.` and `..` have names, too.
    let whole = path.canonicalize().with_context(|| run.to_owned())?;
    let name = whole.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok((name.with_context(|| format!("{run} has no name: write NAME={run}"))?, path))
}

/// A size: a number with `KiB`, `MiB`, `GiB`, `kB`, `MB`, `GB` or nothing after it, at least one byte.
fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split_unit(text);
    let unit = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => 0,
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| "expected a size as 20MiB, 2GiB or 1000000".to_owned())
}

/// A time: a number with `ms`, `s`, `m` or `h` after it, at most a year.
fn parse_time(text: &str) -> Result<Duration, String> {
    const YEAR: f64 = 366.0 * 86400.0;
    let (number, unit) = split_unit(text);
    let unit = match unit {
        "ms" => 1e-3,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => f64::NAN,
    };
    let seconds = number.parse::<f64>().map_or(f64::NAN, |number| number * unit);
    let time = (0.0..=YEAR).contains(&seconds).then(|| Duration::from_secs_f64(seconds));
    time.ok_or_else(|| "expected a time as 500ms, 30s, 5m or 1h".to_owned())
}

/// A number, and what comes after it.
fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_have_units() {
        let sizes = [("20MiB", 20 << 20), ("2 GiB", 2 << 30), ("1000000", 1_000_000), ("5kB", 5000), ("1k", 1024)];
        for (text, expected) in sizes {
            assert_eq!(parse_size(text), Ok(expected), "{text}");
        }
        for text in ["", "MiB", "0", "-1", "1.5MiB", "20 apples", "99999999999GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        for (text, seconds) in [("500ms", 0.5), ("30s", 30.0), ("1.5m", 90.0), ("1h", 3600.0), ("7", 7.0), ("0s", 0.0)]
        {
            assert_eq!(parse_time(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["", "s", "-1s", "3d", "1e9h", "nan", "99999h"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_run_is_called_as_its_directory_or_as_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run=1");
        std::fs::create_dir(&run).unwrap();
        let text = run.display().to_string();
        assert_eq!(named_run(&text).unwrap(), ("run=1".to_owned(), run.clone()));
        assert_eq!(named_run("beach=some/where").unwrap(), ("beach".to_owned(), PathBuf::from("some/where")));
        assert!(format!("{:#}", named_run("nowhere").unwrap_err()).contains("nowhere"));
    }
}
