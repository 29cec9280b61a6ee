//! Compiles every `.proto` below `proto/` without `protoc`, and keeps their descriptors for reflection.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Messages that hold personal data or secrets: `src/proto.rs` writes their `Debug` by hand.
const PRIVATE_MESSAGES: [&str; 5] = [
    ".order.v1.OrderAddress",
    ".order.v1.CreateOrderRequest",
    ".user.v1.Address",
    ".shipping.v1.Address",
    ".payment.v1.ChargeRequest",
];

fn main() -> Result<(), Box<dyn Error>> {
    tell_build();
    let root = Path::new("proto");
    println!("cargo:rerun-if-changed=build.rs");
    // Compiled in by a macro, which does not notice a new file.
    println!("cargo:rerun-if-changed=migrations");
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();

    let mut compiler = protox::Compiler::new([root])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;

    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    fs::write(out.join("order_descriptor.bin"), compiler.encode_file_descriptor_set())?;
    let mut files = compiler.file_descriptor_set();
    tonic_prost_build::configure().skip_debug(PRIVATE_MESSAGES).compile_fds(files.clone())?;

    // Once more the server of our own API alone: there an order may be given as bytes.
    let served = out.join("served");
    fs::create_dir_all(&served)?;
    files.file.retain(|file| file.package() == "order.v1");
    tonic_prost_build::configure()
        .build_client(false)
        .extern_path(".order.v1", "crate::proto::order")
        .extern_path(".order.v1.Order", "crate::proto::answer::Order")
        .out_dir(served)
        .compile_fds(files)?;
    Ok(())
}

/// What the program can tell of its build: nothing of the place or time where it was built.
fn tell_build() {
    let asked = env::var_os("RUSTC").and_then(|rustc| Command::new(rustc).arg("--version").output().ok());
    let told = asked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let version = told.split(' ').nth(1).unwrap_or("unknown");
    println!("cargo:rustc-env=ORDER_SERVICE_RUSTC={version}");
    for (name, from) in [("ORDER_SERVICE_TARGET", "TARGET"), ("ORDER_SERVICE_PROFILE", "PROFILE")] {
        println!("cargo:rustc-env={name}={}", env::var(from).unwrap_or_default());
    }
    println!("cargo:rerun-if-env-changed=ORDER_SERVICE_BUILD");
}

/// Gathers the `.proto` files below `folder`; cargo watches folders too, so a new file is noticed.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={}", folder.display());
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            println!("cargo:rerun-if-changed={}", path.display());
            files.push(path);
        }
    }
    Ok(())
}
