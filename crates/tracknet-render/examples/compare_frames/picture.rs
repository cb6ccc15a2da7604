//! Frames and labels as they lie on disk.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Why something cannot be measured: the whole message.
#[derive(Debug)]
pub(crate) struct Problem(pub(crate) String);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A decoded frame.
pub(crate) struct Picture {
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// BT.601 luma and the two colour differences, levels of 255, row by row.
    pub(crate) luma: Vec<f32>,
    pub(crate) chroma: Vec<[f32; 2]>,
}

impl Picture {
    pub(crate) fn open(path: &Path) -> Result<Self, Problem> {
        let image = image::open(path).map_err(|e| Problem(format!("{}: {e}", path.display())))?.to_rgb8();
        let (width, height) = (image.width() as usize, image.height() as usize);
        let (mut luma, mut chroma) = (Vec::with_capacity(width * height), Vec::with_capacity(width * height));
        for pixel in image.pixels() {
            let [r, g, b] = pixel.0.map(f32::from);
            let y = 0.299 * r + 0.587 * g + 0.114 * b;
            luma.push(y);
            chroma.push([(b - y) * 0.564, (r - y) * 0.713]);
        }
        Ok(Self { width, height, luma, chroma })
    }

    pub(crate) fn size(&self) -> [usize; 2] {
        [self.width, self.height]
    }

    /// Luma at a pixel; the nearest one where it lies outside.
    pub(crate) fn at(&self, x: i32, y: i32) -> f32 {
        self.luma.get(self.index(x, y)).copied().unwrap_or(0.0)
    }

    pub(crate) fn chroma_at(&self, x: i32, y: i32) -> [f32; 2] {
        self.chroma.get(self.index(x, y)).copied().unwrap_or_default()
    }

    fn index(&self, x: i32, y: i32) -> usize {
        let x = (x.max(0) as usize).min(self.width.saturating_sub(1));
        let y = (y.max(0) as usize).min(self.height.saturating_sub(1));
        y * self.width + x
    }

    /// Pixels at 720 lines of one pixel of this frame.
    pub(crate) fn scale(&self) -> f32 {
        720.0 / self.height.max(1) as f32
    }
}

/// The paths in a directory, sorted.
pub(crate) fn entries(directory: &Path) -> Result<Vec<PathBuf>, Problem> {
    let problem = |e: std::io::Error| Problem(format!("{}: {e}", directory.display()));
    let listed: Result<Vec<PathBuf>, _> =
        std::fs::read_dir(directory).map_err(problem)?.map(|entry| entry.map(|e| e.path())).collect();
    let mut paths = listed.map_err(problem)?;
    paths.sort();
    Ok(paths)
}

/// The jpg and png files of a directory, sorted.
pub(crate) fn frames(directory: &Path) -> Result<Vec<PathBuf>, Problem> {
    let is_frame =
        |path: &PathBuf| path.extension().is_some_and(|e| ["jpg", "jpeg", "png"].iter().any(|known| e == *known));
    Ok(entries(directory)?.into_iter().filter(is_frame).collect())
}

/// A row of `Label.csv`: the visibility class, and the ball's place in the frame's pixels.
pub(crate) type Label = (u8, Option<[f32; 2]>);

/// The labels of a clip by file name; empty without a `Label.csv`.
pub(crate) fn labels(directory: &Path) -> Result<BTreeMap<String, Label>, Problem> {
    let path = directory.join("Label.csv");
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let problem = |e: csv::Error| Problem(format!("{}: {e}", path.display()));
    let mut reader = csv::Reader::from_path(&path).map_err(problem)?;
    let mut labels = BTreeMap::new();
    for row in reader.records() {
        let row = row.map_err(problem)?;
        let field = |i: usize| row.get(i).unwrap_or("").trim();
        let xy = match (field(2).parse(), field(3).parse()) {
            (Ok(x), Ok(y)) => Some([x, y]),
            _ => None,
        };
        let visibility = field(1).parse().unwrap_or(0);
        labels.insert(field(0).to_owned(), (visibility, xy));
    }
    Ok(labels)
}
