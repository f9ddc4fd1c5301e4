//! `cargo xtask differential`: the unit of QEMU and `vtd-emu` are given the same tables, queues and requests, and must answer
//! alike.

pub mod board;
pub mod qtest;

use std::process::ExitCode;
use anyhow::Result;

pub fn run() -> Result<ExitCode> {
    let qemu = crate::setup::qemu::ensure(None, crate::guest::LEAST_FOR_TESTS)?;
    for name in ["legacy", "legacy-39", "caching", "second-stage", "first-stage"] {
        let mut board = board::Board::start(&qemu, crate::machines::by_name(name)?)?;
        let q = qtest::Width::Quad;
        let (a, b, c) = (board.read(0, qtest::Width::Double)?, board.read(8, q)?, board.read(0x10, q)?);
        let round = board.finish()?;
        println!("{name} {:x} {:x} {:x}", round.number(a)?, round.number(b)?, round.number(c)?);
        let begun = std::time::Instant::now();
        let mut n = 0;
        for _ in 0..2000 {
            for _ in 0..4 {
                board.dma_write(board::Device::Writer, 0x100_0000, 4, 0x100_0000)?;
                n += 8;
            }
            board.finish()?;
        }
        println!("{} commands/s", n as f64 / begun.elapsed().as_secs_f64());
        let begun = std::time::Instant::now();
        for _ in 0..1000 { board.line.fill(0x200_0000, 0x40000, 0)?; }
        board.finish()?;
        println!("fill {:?}", begun.elapsed() / 1000);
        let begun = std::time::Instant::now();
        for _ in 0..1000 { board.line.store(0x200_0000, &[0x55; 512])?; }
        board.finish()?;
        println!("store page {:?}", begun.elapsed() / 1000);
        let begun = std::time::Instant::now();
        for _ in 0..1000 { board.line.load(0x200_0000, 512)?; }
        board.finish()?;
        println!("load page {:?}", begun.elapsed() / 1000);
        let begun = std::time::Instant::now();
        for _ in 0..1000 { board.edu(true, 0x200_0000, 8, 0)?; }
        board.finish()?;
        println!("edu {:?}", begun.elapsed() / 1000);
        for d in board::Device::ALL { if d != board::Device::Edu {
            let t = board.dma_write(d, 0x100_0000, 4, 0x100_0000)?;
            println!("{d:?} {:x}", board.finish()?.number(t)?);
        } }
    }
    Ok(ExitCode::SUCCESS)
}
