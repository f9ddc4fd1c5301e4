//! `cargo xtask run`: everything up to the tour on the screen.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::boot::{self, End, Limits};
use crate::cli::RunArgs;
use crate::kernel;
use crate::machines::{Change, Setting};
use crate::protocol::Line;
use crate::setup::{qemu, sysroot};
use crate::symbols::Symbols;

const LIMITS: Limits = Limits { total: Duration::from_secs(120), silence: Duration::from_secs(30) };

pub fn run(args: &RunArgs) -> Result<ExitCode> {
    let sysroot = sysroot::ensure()?;
    let qemu = qemu::ensure(args.qemu.as_deref(), args.machine.least)?;
    let kernel = kernel::build(&sysroot)?;
    let symbols = Symbols::load(&kernel)?;
    eprintln!("booting machine {} in QEMU {} ({})", args.machine.name, qemu.version, qemu.origin);
    let setting =
        Setting { machine: args.machine, change: Change::default(), smp: args.smp, kvm: args.kvm, extra: &args.extra };
    let mut screen = std::io::stdout().lock();
    let outcome = boot::boot(&qemu, &kernel, &setting, "tour", LIMITS, &mut |line| {
        // Who closes the screen (`| head`) has seen enough; the machine still runs to its end.
        let _ = show(&mut screen, &line, &symbols);
    })?;
    if outcome.end == End::Exit(Some(boot::SUCCESS)) {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("error: {outcome}");
    Ok(ExitCode::FAILURE)
}

fn show(screen: &mut impl Write, line: &Line, symbols: &Symbols) -> std::io::Result<()> {
    match line {
        Line::Text(text) => writeln!(screen, "{text}"),
        Line::Panic { text } => writeln!(screen, "panic: {text}"),
        Line::Frame { address } => {
            let functions = symbols.describe(*address).join(", in ");
            writeln!(screen, "  {address:#x}  {functions}")
        }
        Line::Unknown(text) => writeln!(screen, "(not understood) {text}"),
        _ => Ok(()),
    }
}
