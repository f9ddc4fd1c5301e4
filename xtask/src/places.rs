//! Where things lie, and the commands that everything starts.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// The workspace's folder.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Where cargo builds, absolute.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Where set-up keeps what it fetched and built.
pub fn setup() -> PathBuf {
    target().join("vtd-setup")
}

/// `cargo` in the workspace's folder, free of what an outer `cargo run` leaves in the environment.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "CARGO_BIN_NAME" {
            command.env_remove(name);
        }
    }
    command
}

/// `rustc` in the workspace's folder, so that a toolchain chosen there counts.
pub fn rustc() -> Command {
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.current_dir(root()).stdin(Stdio::null());
    command
}

/// What a command prints, or an error that says which command failed and its last words.
pub fn output_of(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } =
        command.output().with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed ({status}): {}", shown(command), last_lines(&String::from_utf8_lossy(&stderr), 3));
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// A program's name, as far as the search path has it.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// The last lines of a text that are not empty, in one line.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join(" / ")
}

fn shown(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let first = command.get_args().next().map(|arg| format!(" {}", arg.to_string_lossy())).unwrap_or_default();
    format!("`{}{first}`", name.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_skips_empty_ones() {
        assert_eq!(last_lines("a\n\n b \nc\n\n", 2), "b / c");
        assert_eq!(last_lines("", 2), "");
    }

    #[test]
    fn a_failing_command_is_named_with_its_words() {
        let error = output_of(Command::new("sh").args(["-c", "echo lost >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("`sh -c`") && error.contains("lost"), "{error}");
    }
}
