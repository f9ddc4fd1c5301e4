//! The command line: words separated by spaces (docs/architecture.md lists them).

use spin::Once;
use vtd::Tables;

/// What the kernel is asked to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Show what an IOMMU does.
    Tour,
    /// Run the tests.
    Test,
    /// Say which tests there are.
    List,
}

/// The command line, taken apart. Unknown words are left alone.
#[derive(Clone, Copy, Debug)]
pub struct CommandLine {
    pub mode: Mode,
    pub filter: Option<&'static str>,
    pub only: Option<&'static str>,
    pub after: Option<&'static str>,
    /// The machine's name, for people.
    pub machine: Option<&'static str>,
    /// Whether the machine promises a remapping unit.
    pub iommu: Option<bool>,
    /// Repetitions of tests with random parts, in percent.
    pub scale: u32,
    /// The tables that tests and tour have the driver run the unit on.
    pub tables: Tables,
}

/// What the loader passed, taken apart at the first look.
pub fn get() -> &'static CommandLine {
    static LINE: Once<CommandLine> = Once::new();
    LINE.call_once(|| CommandLine::parse(super::info::get().command_line()))
}

impl CommandLine {
    fn parse(text: &'static str) -> Self {
        let mut line = CommandLine {
            mode: Mode::Tour,
            filter: None,
            only: None,
            after: None,
            machine: None,
            iommu: None,
            scale: 100,
            tables: Tables::Best,
        };
        for word in text.split_ascii_whitespace() {
            match word.split_once('=') {
                None => match word {
                    "tour" => line.mode = Mode::Tour,
                    "test" => line.mode = Mode::Test,
                    "list" => line.mode = Mode::List,
                    _ => {}
                },
                Some(("filter", v)) => line.filter = Some(v),
                Some(("only", v)) => line.only = Some(v),
                Some(("after", v)) => line.after = Some(v),
                Some(("machine", v)) => line.machine = Some(v),
                Some(("iommu", "yes")) => line.iommu = Some(true),
                Some(("iommu", "no")) => line.iommu = Some(false),
                Some(("tables", "legacy")) => line.tables = Tables::Legacy,
                Some(("tables", "scalable")) => line.tables = Tables::Scalable,
                Some(("scale", v)) => line.scale = v.parse().unwrap_or(100),
                Some(_) => {}
            }
        }
        line
    }
}
