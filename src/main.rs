//! The `ringpull` command: see [`ringpull::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    ringpull::cli::run()
}
