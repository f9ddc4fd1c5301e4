//! Sets `cfg(loom)` for this package alone, so that nothing else is built twice.

fn main() {
    println!("cargo::rustc-cfg=loom");
    println!("cargo::rerun-if-changed=build.rs");
}
