//! What decoders for several levels say of the levels that a backbone gives.

use crate::models::ModelError;
use crate::models::features::Layout;

/// Channels of each level, which `in_channels` of the section must equal where it is given.
pub(super) fn check_channels(
    section: &str,
    in_channels: Option<&[usize]>,
    layout: &Layout,
) -> Result<Vec<usize>, ModelError> {
    let channels: Vec<usize> = layout.levels.iter().map(|level| level.channels).collect();
    match in_channels.filter(|expected| *expected != channels) {
        None => Ok(channels),
        Some(expected) => {
            let hint = if expected.len() == channels.len() { "" } else { WHERE_LEVELS_COME_FROM };
            let message = format!("is {expected:?}, but the backbone gives {layout}: make them equal{hint}");
            Err(ModelError::key(format!("{section}.in_channels"), message))
        }
    }
}

/// Checks that the backbone gives as many levels as `key` asks for.
pub(super) fn check_count(key: &str, asks_for: usize, layout: &Layout) -> Result<(), ModelError> {
    if asks_for == layout.levels.len() {
        return Ok(());
    }
    let levels = if asks_for == 1 { "1 level".to_owned() } else { format!("{asks_for} levels") };
    let message =
        format!("asks for {levels}, but the backbone gives {layout}: make them as many{WHERE_LEVELS_COME_FROM}");
    Err(ModelError::key(key, message))
}

const WHERE_LEVELS_COME_FROM: &str = "; a vision transformer gives one level, a convolutional backbone those that \
                                      model.backbone.return_stages names";
