//! Games by range: `game1..game9`, or `game1..9`, names nine.

use super::SplitConfig;

/// The most names of one range.
const LONGEST_RANGE: u64 = 100_000;

impl SplitConfig {
    /// Puts the names in the place of each range. What is no range of names, in ascending order, stays as it is.
    pub(crate) fn name_ranges(&mut self) {
        for games in [&mut self.train_games, &mut self.val_games, &mut self.test_games] {
            *games = games.iter().flat_map(|game| names(game).unwrap_or_else(|_| vec![game.clone()])).collect();
        }
    }

    /// The first range that names no games: its key, and why.
    pub(crate) fn bad_range(&self) -> Option<(&'static [&'static str], String)> {
        let lists: [(&[&str], _); 3] = [
            (&["data.split.train_games"], &self.train_games),
            (&["data.split.val_games"], &self.val_games),
            (&["data.split.test_games"], &self.test_games),
        ];
        lists.into_iter().find_map(|(key, games)| Some((key, games.iter().find_map(|game| names(game).err())?)))
    }
}

/// A list of games with the names in the place of each range.
///
/// # Errors
/// A range that names no games, and why.
pub fn games_of(list: &[String]) -> Result<Vec<String>, String> {
    let names: Vec<Vec<String>> = list.iter().map(|game| names(game)).collect::<Result<_, _>>()?;
    Ok(names.concat())
}

/// The names of a range, or the name alone where it is none.
fn names(text: &str) -> Result<Vec<String>, String> {
    let Some(((stem, first), (other, last))) = text.split_once("..").and_then(|(a, b)| Some((number(a)?, number(b)?)))
    else {
        return Ok(vec![text.to_owned()]);
    };
    if !other.is_empty() && other != stem {
        return Err(format!("{text}: a range has one name, as game1..game9 or game1..9"));
    }
    let (Ok(from), Ok(to)) = (first.parse::<u64>(), last.parse::<u64>()) else {
        return Err(format!("{text}: numbers of games are smaller"));
    };
    if from > to || to - from >= LONGEST_RANGE {
        return Err(format!("{text}: a range counts up, over at most {LONGEST_RANGE} games"));
    }
    // Of `game01..09` every name has two digits.
    let digits = if first.starts_with('0') { first.len() } else { 0 };
    Ok((from..=to).map(|number| format!("{stem}{number:0digits$}")).collect())
}

/// A name that ends in digits, or digits alone, cut before them.
fn number(text: &str) -> Option<(&str, &str)> {
    let stem = text.trim_end_matches(|c: char| c.is_ascii_digit());
    (stem.len() < text.len()).then(|| text.split_at(stem.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_names_its_games_and_everything_else_names_itself() {
        assert_eq!(names("game9..game11"), Ok(["game9", "game10", "game11"].map(String::from).to_vec()));
        assert_eq!(names("game9..10"), Ok(["game9", "game10"].map(String::from).to_vec()));
        assert_eq!(names("m08..m10"), Ok(["m08", "m09", "m10"].map(String::from).to_vec()));
        assert_eq!(names("2..3"), Ok(["2", "3"].map(String::from).to_vec()));
        for name in ["game1", "a..b", "..", "game1..", "us open..final", "../game1"] {
            assert_eq!(names(name), Ok(vec![name.to_owned()]), "{name}");
        }
        let list = ["final", "game9..10"].map(String::from);
        assert_eq!(games_of(&list), Ok(["final", "game9", "game10"].map(String::from).to_vec()));
    }

    #[test]
    fn a_range_that_names_no_games_says_why() {
        for (range, why) in [
            ("game9..game1", "a range counts up"),
            ("game1..match9", "a range has one name"),
            ("game1..game9999999", "over at most 100000 games"),
            ("game1..99999999999999999999999", "numbers of games are smaller"),
        ] {
            let error = names(range).unwrap_err();
            assert!(error.starts_with(range) && error.contains(why), "{error}");
            assert_eq!(games_of(&["game1".to_owned(), range.to_owned()]), Err(error));
        }
    }
}
