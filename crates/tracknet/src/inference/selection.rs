//! Which frames of a source are looked at.

use std::fmt;
use std::num::NonZeroU64;
use std::ops::Range;
use std::str::FromStr;

/// A place in a source.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Position {
    /// The number of a frame, from 0.
    Frame(u64),
    /// Seconds from the beginning.
    Seconds(f64),
}

/// `1500` is a frame; `90s`, `1:30` and `0:01:30.5` are times.
impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected a frame such as 1500, or a time such as 90s, 1:30 or 0:01:30.5".to_owned();
        if text.chars().all(|c| c.is_ascii_digit()) {
            return text.parse().map(Self::Frame).map_err(|_| expected());
        }
        let plain = |part: &str| part.starts_with(|c: char| c.is_ascii_digit()) && !part.contains(['e', 'E']);
        let number = |part: &str| part.parse::<f64>().ok().filter(|value| value.is_finite() && plain(part));
        let parts: Vec<&str> =
            text.strip_suffix('s').map_or_else(|| text.split(':').collect(), |seconds| vec![seconds]);
        let is_time = text.ends_with('s') || (2..=3).contains(&parts.len());
        let (Some((last, whole)), true) = (parts.split_last(), is_time) else { return Err(expected()) };
        let sexagesimal = |value: &f64| whole.is_empty() || *value < 60.0;
        let seconds = number(last).filter(sexagesimal).ok_or_else(expected)?;
        let mut minutes = 0.0;
        for (index, part) in whole.iter().enumerate() {
            let value = part.parse::<u32>().ok().filter(|value| plain(part) && (index == 0 || *value < 60));
            minutes = minutes * 60.0 + f64::from(value.ok_or_else(expected)?);
        }
        Ok(Self::Seconds(minutes * 60.0 + seconds))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(number) => write!(f, "frame {number}"),
            Self::Seconds(seconds) => write!(f, "{seconds} s"),
        }
    }
}

/// Which frames of a source are looked at: from `start` up to `end`, which is not among them, every `stride`-th one. A window
/// is made of frames that are looked at: every second frame of a video of 60 a second is one of 30.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Selection {
    /// The first; `None` = that of the source.
    pub start: Option<Position>,
    /// The first that is not looked at any more; `None` = to the end.
    pub end: Option<Position>,
    /// One of so many.
    pub stride: NonZeroU64,
    /// Goes on after a frame that an earlier prediction of the same selection reached.
    pub resume: Option<Resume>,
}

/// Where an earlier prediction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resume {
    /// The last frame that it wrote.
    pub after: u64,
    /// So many of the frames before are looked at again, beside those that windows need: what a tracker wants to know. They are
    /// given again, too.
    pub history: u64,
}

impl Default for Selection {
    fn default() -> Self {
        Self { start: None, end: None, stride: NonZeroU64::MIN, resume: None }
    }
}

impl Selection {
    /// Whether it is the whole source.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// The selected frames once both ends are numbers, `from..to` with `to` unbounded where it is not known, of clips that begin at
    /// the frames `clips`. Windows that come in blocks of `block` selected frames and see `reach` frames before them are those of
    /// an unbroken prediction, also where it is resumed.
    pub(super) fn frames(&self, from: u64, to: Option<u64>, clips: &[u64], [block, reach]: [usize; 2]) -> Wanted {
        let stride = self.stride.get();
        let range = from..to.unwrap_or(u64::MAX);
        let Some(resume) = self.resume.filter(|resume| resume.after >= from) else { return Wanted { range, stride } };
        // In selected frames from here on.
        let next = (resume.after - from) / stride + 1;
        let clip = clips.iter().filter(|first| **first > from).map(|first| (first - from).div_ceil(stride));
        let clip = clip.filter(|first| *first <= next).max().unwrap_or(0);
        let back = (next - clip).saturating_sub(reach as u64 + resume.history);
        let start = clip + back - back % (block as u64).max(1);
        Wanted { range: from + start * stride..range.end, stride }
    }
}

/// The numbers of the frames that are looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) range: Range<u64>,
    pub(super) stride: u64,
}

impl Wanted {
    /// Every frame.
    pub(super) const ALL: Self = Self { range: 0..u64::MAX, stride: 1 };

    pub(super) fn contains(&self, number: u64) -> bool {
        self.range.contains(&number) && (number - self.range.start).is_multiple_of(self.stride)
    }

    /// How many there are among the first `total` of a source.
    pub(super) fn count(&self, total: u64) -> u64 {
        self.range.end.min(total).saturating_sub(self.range.start).div_ceil(self.stride)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_frames_and_everything_else_that_is_understood_is_a_time() {
        let read = |text: &str| text.parse::<Position>().ok();
        assert_eq!(read("1500"), Some(Position::Frame(1500)));
        for (text, seconds) in [("90s", 90.0), ("1.5s", 1.5), ("1:30", 90.0), ("0:01:30.5", 90.5), ("100:00", 6000.0)] {
            assert_eq!(read(text), Some(Position::Seconds(seconds)), "{text}");
        }
        for text in
            ["", "s", "-1", "1.5", "1:", ":5", "1:60", "1:2:3:4", "1:-2", "infs", "nans", "1e3s", "1:99:00", "+5s"]
        {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn a_selection_has_its_frames_and_no_others() {
        let selection = Selection { stride: NonZeroU64::new(3).unwrap(), ..Selection::default() };
        let wanted = selection.frames(4, Some(12), &[0], [1, 0]);
        assert_eq!((0..20).filter(|number| wanted.contains(*number)).collect::<Vec<_>>(), [4, 7, 10]);
        assert_eq!([wanted.count(100), wanted.count(8), wanted.count(7), wanted.count(2)], [3, 2, 1, 0]);
        assert!(Wanted::ALL.contains(0) && Wanted::ALL.count(5) == 5);
    }

    #[test]
    fn a_resumed_prediction_begins_with_a_block_that_sees_all_that_the_next_frame_saw() {
        let at = |after, stride, clips: &[u64], block, reach, history| {
            let resume = Some(Resume { after, history });
            let selection = Selection { stride: NonZeroU64::new(stride).unwrap(), resume, ..Selection::default() };
            selection.frames(10, None, clips, [block, reach]).range.start
        };
        assert_eq!(at(49, 1, &[0], 1, 0, 0), 50);
        // Frame 50 is the 40th: of the block of 39 to 41, which looks 5 back to 34.
        assert_eq!(at(49, 1, &[0], 3, 5, 0), 10 + 33);
        assert_eq!(at(49, 1, &[0], 3, 5, 20), 10 + 15);
        assert_eq!(at(49, 1, &[0], 3, 5, 100), 10);
        // Every second frame: 48 was the 19th.
        assert_eq!(at(48, 2, &[0], 3, 5, 0), 10 + 2 * 15);
        // A clip that begins within is not looked behind; one that begins later does not matter.
        assert_eq!(at(49, 1, &[0, 44, 60], 3, 5, 0), 44);
        assert_eq!(at(49, 1, &[0, 41, 60], 3, 5, 0), 44);
        // What was not reached begins anew.
        assert_eq!(at(3, 1, &[0], 3, 5, 0), 10);
    }
}
