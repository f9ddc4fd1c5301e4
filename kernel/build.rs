//! Hands the linker script to the linker, for this crate's program only: other builds for the bare target keep theirs.

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    println!("cargo::rustc-link-arg-bins=-T{here}/../linker.ld");
    println!("cargo::rerun-if-changed=../linker.ld");
}
