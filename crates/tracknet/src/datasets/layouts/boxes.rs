//! Boxes of several classes → the position of the ball.

use super::super::DatasetError;
use super::super::report::ProblemKind;
use std::path::Path;

use crate::console::{excerpt, listing};

/// Names of classes that are the ball of a racket sport, in lower case and without separators.
const BALLS: [&str; 9] = [
    "ball",
    "tennisball",
    "shuttlecock",
    "shuttle",
    "birdie",
    "tabletennisball",
    "pingpongball",
    "padelball",
    "sportsball",
];

/// The classes of a data set, and which of them is the ball.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Classes {
    /// Number and name of each; empty when nothing is known about them.
    all: Vec<(i64, String)>,
    /// `None` when there are no names and labels have a single class.
    ball: Option<i64>,
}

impl Classes {
    /// Chooses the class that is the ball: the one that was asked for by name or number, the only one that is called like a
    /// ball, or the only one. `file` is what names them.
    ///
    /// # Errors
    /// A class that is not there, and names that leave it open, with those that there are.
    pub(super) fn new(all: Vec<(i64, String)>, wanted: Option<&str>, file: &Path) -> Result<Self, DatasetError> {
        let refuse = |reason| Err(DatasetError::Description { file: file.to_path_buf(), reason });
        let names = || listing(all.iter().map(|(id, name)| format!("{id} {}", excerpt(name, 60))), 30);
        let plain = |name: &str| name.to_lowercase().replace([' ', '_', '-', '.'], "");
        if let Some(wanted) = wanted {
            let number = wanted.parse::<i64>().ok();
            let named = all.iter().find(|(_, name)| name == wanted || plain(name) == plain(wanted));
            let ball = named.or_else(|| all.iter().find(|(id, _)| Some(*id) == number)).map(|(id, _)| *id);
            return match ball.or(number.filter(|_| all.is_empty())) {
                Some(ball) => Ok(Self { all, ball: Some(ball) }),
                None => refuse(format!("no class `{}`; its classes are {}", excerpt(wanted, 60), names())),
            };
        }
        let of = |is_ball: &dyn Fn(&str) -> bool| -> Vec<i64> {
            all.iter().filter(|(_, name)| is_ball(&plain(name))).map(|(id, _)| *id).collect()
        };
        let exact = of(&|name| BALLS.contains(&name));
        let found =
            if exact.is_empty() { of(&|name| name.ends_with("ball") || name.ends_with("balls")) } else { exact };
        match (found.as_slice(), all.as_slice()) {
            ([ball], _) | ([], [(ball, _)]) => Ok(Self { ball: Some(*ball), all }),
            ([], []) => Ok(Self { all, ball: None }),
            ([], _) => refuse(format!("none of its classes is called like a ball: {}; {SAY_WHICH}", names())),
            _ => refuse(format!("several of its classes are called like a ball: {}; {SAY_WHICH}", names())),
        }
    }

    /// Which class was chosen, for a person.
    pub(super) fn note(&self) -> Option<String> {
        let ball = self.ball?;
        let name = self.all.iter().find(|(id, _)| *id == ball).map_or("without a name", |(_, name)| name);
        Some(format!("the ball is class {ball} ({}) of {}", excerpt(name, 60), self.all.len().max(1)))
    }

    /// Whether a box of this class is the ball.
    ///
    /// # Errors
    /// A class that the data set does not have.
    pub(super) fn is_ball(&self, class: i64) -> Result<bool, String> {
        let known = self.all.is_empty() || self.all.iter().any(|(id, _)| *id == class);
        let unknown =
            || format!("class {class}, but the classes are {}", listing(self.all.iter().map(|(id, _)| id), 30));
        if known { Ok(self.ball.is_none_or(|ball| ball == class)) } else { Err(unknown()) }
    }

    /// Whether the ball is whatever class labels have.
    pub(super) fn is_open(&self) -> bool {
        self.ball.is_none()
    }
}

/// What to do when names do not tell.
pub(super) const SAY_WHICH: &str = "name the one that is the ball by data.ball_class (--ball-class)";

/// A box of the ball, in pixels counted from the corner of the picture: its middle and its size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct BallBox {
    pub(super) middle: [f64; 2],
    pub(super) size: [f64; 2],
}

/// The position of the ball in a frame, in pixels from the centre of the first one; `None` without a box. Boxes around one
/// place count as one.
///
/// # Errors
/// Boxes in several places.
pub(super) fn ball_of(boxes: &[BallBox]) -> Result<Option<[f32; 2]>, (ProblemKind, String)> {
    let area = |b: &BallBox| b.size[0] * b.size[1];
    let Some(largest) = boxes.iter().max_by(|a, b| area(a).total_cmp(&area(b))) else { return Ok(None) };
    let near =
        |b: &&BallBox| (0..2).all(|i| (b.middle[i] - largest.middle[i]).abs() <= (0.5 * largest.size[i]).max(2.0));
    let places = boxes.iter().filter(|b| !near(b)).count() + 1;
    if places > 1 {
        let detail =
            format!("{} boxes of the ball in {places} places, and which ball is in play cannot be told", boxes.len());
        return Err((ProblemKind::SeveralBalls, detail));
    }
    Ok(Some(largest.middle.map(|v| (v - 0.5) as f32)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(names: &[&str], wanted: Option<&str>) -> Result<Classes, String> {
        let all = (0..).zip(names.iter().map(|name| (*name).to_owned())).collect();
        Classes::new(all, wanted, Path::new("data.yaml")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_ball_is_found_by_its_name_or_by_what_was_asked_for() {
        for (names, wanted, ball) in [
            (&["player", "Tennis-Ball", "net"][..], None, 1),
            (&["ball", "ball boy", "football"], None, 0),
            (&["player", "yellow ball"], None, 1),
            (&["item"], None, 0),
            (&["ball", "tennis ball"], Some("tennis_ball"), 1),
            (&["a", "b"], Some("1"), 1),
        ] {
            assert_eq!(classes(names, wanted).unwrap().ball, Some(ball), "{names:?}");
        }
        assert!(classes(&[], None).unwrap().is_open());
        let text = classes(&["ball", "tennis ball"], None).unwrap_err();
        assert!(text.contains("several of its classes are called like a ball: 0 ball, 1 tennis ball"), "{text}");
        let text = classes(&["player", "net"], None).unwrap_err();
        assert!(text.contains("none of its classes is called like a ball: 0 player, 1 net; name the one"), "{text}");
        assert_eq!(classes(&["ball"], Some("puck")).unwrap_err(), "data.yaml: no class `puck`; its classes are 0 ball");
        assert!(classes(&["ball"], None).unwrap().is_ball(7).unwrap_err().contains("class 7, but the classes are 0"));
    }

    #[test]
    fn boxes_around_one_place_are_one_ball_and_others_are_not_guessed() {
        let at = |x: f64, size: f64| BallBox { middle: [x, 20.0], size: [size; 2] };
        assert_eq!(ball_of(&[]).unwrap(), None);
        assert_eq!(ball_of(&[at(10.0, 8.0)]).unwrap(), Some([9.5, 19.5]));
        assert_eq!(ball_of(&[at(11.0, 6.0), at(10.0, 8.0)]).unwrap(), Some([9.5, 19.5]));
        let (kind, text) = ball_of(&[at(10.0, 8.0), at(60.0, 8.0), at(11.0, 8.0)]).unwrap_err();
        assert_eq!(kind, ProblemKind::SeveralBalls);
        assert!(text.starts_with("3 boxes of the ball in 2 places"), "{text}");
    }
}
