//! The program; everything it does is in the library.

use std::process::ExitCode;

// Many small, short-lived allocations on every core: measured a tenth faster here than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    order_service::cli::run(std::env::args_os())
}
