//! Renders a dataset with the library alone, as `tracknet data generate` does, and says how fast.
//!
//! ```text
//! cargo run --release -p tracknet-render --example render_looks -- DIR '{"look": "mixed", "games": 20, "seed": 7}'
//! ```
//!
//! The second argument is JSON with the keys of `generate.json`; what it leaves out keeps its default.

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use tracknet_io::console::say;
use tracknet_render::{GenerateOptions, generate};

fn main() -> ExitCode {
    match run() {
        Ok(said) => {
            say(said);
            ExitCode::SUCCESS
        }
        Err(problem) => {
            say(problem);
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<String, String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [root, options] = arguments.as_slice() else {
        return Err(format!("{} arguments; expected DIR and the options as JSON", arguments.len()));
    };
    let options: GenerateOptions = serde_json::from_str(options).map_err(|e| format!("options: {e}"))?;
    let start = Instant::now();
    let report = generate(Path::new(root), &options, &AtomicBool::new(false), &mut |_, _| {})
        .map_err(|e| e.to_string())?
        .ok_or("stopped")?;
    let rate = report.frames as f64 / start.elapsed().as_secs_f64();
    Ok(format!("{} frames, {rate:.1} a second, visibility 0/1/2/3: {:?}", report.frames, report.visibility))
}
