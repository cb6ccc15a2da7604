//! "Did you mean …?": the known name that is nearest to one that is not known.

/// Names of more bytes are no typing errors, and too long to be compared with all known ones.
const LONGEST: usize = 64;

/// The nearest of the `known` names, the first of equally near ones, and whether it is near enough to be what was meant.
pub(crate) fn nearest<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<(&'k str, bool)> {
    if name.len() > LONGEST {
        return None;
    }
    let name = name.to_lowercase();
    let distances = known.into_iter().map(|known| (strsim::damerau_levenshtein(&name, known), known));
    let (distance, nearest) = distances.min_by_key(|(distance, _)| *distance)?;
    Some((nearest, distance <= (nearest.len().max(name.len()) / 3).max(1)))
}

/// The nearest of the `known` names, when it is near enough to be what was meant.
pub(crate) fn meant<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    nearest(name, known).and_then(|(nearest, close)| close.then_some(nearest))
}
