use std::process::ExitCode;

use clap::Parser;
use xtask::cli::{Cli, Command};

fn main() -> ExitCode {
    let answer = match Cli::parse().command {
        Command::Run(args) => xtask::run::run(&args),
        Command::Doctor => xtask::doctor::run(),
        Command::Dmar(args) => xtask::dmar::run(&args),
        Command::Test(args) => xtask::test::run(&args),
    };
    answer.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
