//! What to render.

use serde::{Deserialize, Serialize};

use crate::{LookSet, RenderError};

/// What to render. Serialized into `generate.json`, whose keys these are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateOptions {
    /// The same seed gives the same files.
    pub seed: u64,
    /// Number of games: each has a look of its own.
    pub games: usize,
    /// Number of the first game: names run `game<first_game>`, …; a game's content depends on its number only.
    pub first_game: usize,
    /// Clips in a game.
    pub clips_per_game: usize,
    /// Frames in a clip.
    pub frames_per_clip: usize,
    /// Frame size `[width, height]`, pixels, each 32 to 8192.
    pub size: [usize; 2],
    /// Which looks to draw from.
    pub look: LookSet,
    /// Range of JPEG qualities, one per clip, 1 to 100.
    pub jpeg_quality: [u8; 2],
    /// Worker threads; 0 for one per core. No influence on the files.
    #[serde(skip)]
    pub threads: usize,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            games: 10,
            first_game: 1,
            clips_per_game: 4,
            frames_per_clip: 24,
            size: [1280, 720],
            look: LookSet::Broadcast,
            jpeg_quality: [70, 92],
            threads: 0,
        }
    }
}

impl GenerateOptions {
    /// # Errors
    /// The first option that is out of range.
    pub(crate) fn check(&self) -> Result<(), RenderError> {
        let problem = |key, found, expected| Err(RenderError::Option { key, found, expected });
        for (key, value) in
            [("games", self.games), ("clips_per_game", self.clips_per_game), ("frames_per_clip", self.frames_per_clip)]
        {
            if value == 0 || value > 100_000 {
                return problem(key, value.to_string(), "1 to 100000");
            }
        }
        let [width, height] = self.size;
        if [width, height].iter().any(|side| !(32..=8192).contains(side)) {
            return problem("size", format!("{width}x{height}"), "32 to 8192 pixels each way");
        }
        let [low, high] = self.jpeg_quality;
        if low < 1 || low > high || high > 100 {
            return problem("jpeg_quality", format!("[{low}, {high}]"), "1 <= low <= high <= 100");
        }
        Ok(())
    }
}
