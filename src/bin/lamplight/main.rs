//! The native command-line program.
fn main() {}
