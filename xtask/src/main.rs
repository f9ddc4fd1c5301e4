use std::process::ExitCode;

use clap::Parser;
use xtask::cli::{Cli, Command};

fn main() -> ExitCode {
    end_with_the_reader();
    let answer = match Cli::parse().command {
        Command::Run(args) => xtask::run::run(&args),
        Command::Doctor => xtask::doctor::run(),
        Command::Dmar(args) => xtask::dmar::run(&args),
        Command::Differential(args) => xtask::differential::run(&args),
        Command::Mutants(args) => xtask::mutants::run(&args),
        Command::Docs(args) => xtask::docs::run(&args),
        Command::Test(args) => xtask::test::run(&args),
    };
    answer.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Who reads us may stop (`| head`): that is no bug of ours to print a backtrace for, but no success either.
fn end_with_the_reader() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload_as_str().is_some_and(|text| text.starts_with("failed printing to stdout")) {
            // As a shell reports a program that SIGPIPE ended.
            std::process::exit(141);
        }
        usual(info);
    }));
}
