//! `tracknet predict`: a picture, a folder of frames or a video → CSV, and pictures with the ball marked.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use tracknet::inference::predictions::{write_csv, write_jsonl};
use tracknet::inference::{FrameResult, Prediction, Predictor, VideoTools, VideoWriter, overlay};
use tracknet::training::load_model_with_adapter;

use crate::args::{AdapterFlags, BaseArgs, DeviceArgs, parse_score};
use crate::device;
use crate::out::outln;

/// Find the ball on a picture, a folder of frames or a video, with a trained run.
///
/// Writes a CSV `Frame,Visibility,X,Y,Score` in the pixels of the source (0,0 when the ball is absent). Videos are
/// read through the ffmpeg program.
#[derive(Args)]
#[command(after_help = "Examples:
  tracknet predict outputs/run-20260101-120000-s42 rally.mp4 --video
  tracknet predict quickstart/run frames/ --overlays --heatmaps --output found")]
pub(crate) struct PredictArgs {
    /// A run directory, or one of its checkpoints.
    run: PathBuf,
    /// A picture, a folder of jpg/png frames, or a video.
    source: PathBuf,
    /// Where the results go; by default predictions/<name of the source>.
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Score from which a frame counts as having a ball.
    #[arg(long, default_value_t = 0.5, value_parser = parse_score)]
    threshold: f32,
    /// Also write every frame with the ball ringed, as PNG.
    #[arg(long)]
    overlays: bool,
    /// Also write every heatmap, as PNG.
    #[arg(long)]
    heatmaps: bool,
    /// Also write a video with the ball ringed (needs ffmpeg).
    #[arg(long)]
    video: bool,
    /// Also write the predictions as JSON lines.
    #[arg(long)]
    jsonl: bool,
    #[command(flatten)]
    base: BaseArgs,
    #[command(flatten)]
    adapter: AdapterFlags,
    #[command(flatten)]
    device: DeviceArgs,
}

pub(crate) fn run(args: &PredictArgs) -> Result<ExitCode> {
    if !args.source.exists() {
        bail!("{}: no such file or directory", args.source.display());
    }
    let name = args.source.file_stem().map_or_else(|| "frames".into(), |stem| stem.to_string_lossy().into_owned());
    let output = args.output.clone().unwrap_or_else(|| Path::new("predictions").join(&name));
    let device = device::resolve(&args.device.device)?;
    let adapter = args.adapter.choice(&args.run)?;
    let loaded = load_model_with_adapter(&args.run, args.base.base.as_deref(), &adapter, &device)?;
    let predictor = Predictor::new(&loaded.model, &loaded.build, &loaded.config, &device);
    let mut writer = Writer { args, output: &output, name: &name, video: None };
    let mut predictions = Vec::new();
    let frames = predictor.path(&args.source, &mut |result| {
        writer.pictures(&result)?;
        predictions.push(result.prediction);
        Ok(())
    })?;
    writer.finish()?;
    let csv = output.join(format!("{name}.csv"));
    write_csv(&csv, &predictions, args.threshold)?;
    if args.jsonl {
        write_jsonl(&output.join(format!("{name}.jsonl")), &predictions, args.threshold)?;
    }
    let found = predictions.iter().filter(|p: &&Prediction| p.visible(args.threshold).is_some()).count();
    outln!("ball found on {found} of {frames} frames\n{}", csv.display())?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the pictures that were asked for, frame by frame.
struct Writer<'a> {
    args: &'a PredictArgs,
    output: &'a Path,
    name: &'a str,
    video: Option<VideoWriter>,
}

impl Writer<'_> {
    fn pictures(&mut self, result: &FrameResult) -> tracknet::Result<()> {
        let number = result.prediction.frame;
        let stem = match &result.prediction.file {
            Some(file) => Path::new(file).file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned()),
            None => format!("{number:06}"),
        };
        if self.args.heatmaps {
            let path = self.output.join(format!("heatmaps/{stem}.png"));
            overlay::write_png(&path, &result.heatmap_picture()?)?;
        }
        if !self.args.overlays && !self.args.video {
            return Ok(());
        }
        let picture = result.overlay(self.args.threshold)?;
        if self.args.overlays {
            overlay::write_png(&self.output.join(format!("overlays/{stem}.png")), &picture)?;
        }
        if self.args.video {
            let mut writer = match self.video.take() {
                Some(writer) => writer,
                None => self.open_video(picture.dimensions())?,
            };
            writer.write(&picture)?;
            self.video = Some(writer);
        }
        Ok(())
    }

    fn open_video(&self, (width, height): (u32, u32)) -> tracknet::Result<VideoWriter> {
        let tools = VideoTools::default();
        // Frames in a folder have no rate of their own; broadcast footage has 25 to 30.
        let fps =
            if self.args.source.is_dir() { None } else { tools.probe(&self.args.source).ok().and_then(|i| i.fps) };
        let path = self.output.join(format!("{}.mp4", self.name));
        VideoWriter::create(&tools, &path, [width, height], fps.unwrap_or(25.0))
    }

    fn finish(self) -> tracknet::Result<()> {
        self.video.map_or(Ok(()), VideoWriter::finish)
    }
}
