//! The `tracknet` command.

fn main() {}
