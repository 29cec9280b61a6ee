//! The program; everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    order_service::cli::run(std::env::args_os())
}
