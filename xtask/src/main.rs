//! The project's commands.

mod dmar;

use clap::Parser;

#[derive(Parser)]
enum Command {
    Dmar(dmar::Args),
}

fn main() -> anyhow::Result<std::process::ExitCode> {
    match Command::parse() {
        Command::Dmar(args) => dmar::run(&args),
    }
}
