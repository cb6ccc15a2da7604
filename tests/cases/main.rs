//! Inputs as people have them (see `README.md` beside this file): the command gives the right answer on each.

// Helpers beside the tests: a failure there is a failed test.
#![allow(clippy::unwrap_used)]

mod support;

mod labels;
mod pictures;
mod prediction;
mod weights;
