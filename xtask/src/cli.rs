//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::machines;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Sets up, runs and tests the vtd workspace")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Boot the kernel in QEMU and show the tour
    #[command(after_help = machines::listing())]
    Run(RunArgs),
    /// Check formatting and lints, run the host's tests, and the kernel's in every machine
    #[command(after_help = machines::listing())]
    Test(TestArgs),
    /// Say what is there, what is missing and what would be fetched
    Doctor,
    Dmar(crate::dmar::Args),
    Differential(crate::differential::Args),
    Mutants(crate::mutants::Args),
    Docs(crate::docs::Args),
}

#[derive(Args)]
pub struct RunArgs {
    /// The machine to boot (see below)
    #[arg(long, value_name = "NAME", default_value = "legacy", value_parser = machines::by_name)]
    pub machine: &'static machines::Machine,
    /// Number of CPUs
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=255))]
    pub smp: u32,
    /// The QEMU to use (also: variable VTD_QEMU)
    #[arg(long, value_name = "PATH")]
    pub qemu: Option<PathBuf>,
    /// Run on the host's CPU through KVM instead of emulating one
    #[arg(long)]
    pub kvm: bool,
    /// Further arguments for QEMU
    #[arg(last = true, value_name = "QEMU ARGS")]
    pub extra: Vec<OsString>,
}

#[derive(Args)]
pub struct TestArgs {
    /// Test in this machine only (may be given several times)
    #[arg(long = "machine", value_name = "NAME", value_parser = machines::by_name)]
    pub machines: Vec<&'static machines::Machine>,
    /// Few repetitions and machines, for work
    #[arg(long, conflicts_with = "long")]
    pub quick: bool,
    /// Many repetitions of the tests with random parts, 20,000 cases against QEMU's unit, every mutant
    #[arg(long)]
    pub long: bool,
    /// Fail on a skip that tests/allowed-skips.txt does not name
    #[arg(long)]
    pub deny_skips: bool,
    /// Show the names of the tests that would run
    #[arg(long)]
    pub list: bool,
    /// Run only tests whose name contains this: `host::...`, `emu::...`, `MACHINE::MODULE::TEST`, `differential::...`,
    /// `mutant::...`, `tour::...`
    #[arg(value_name = "FILTER")]
    pub filter: Option<String>,
}
