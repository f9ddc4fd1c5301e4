//! The kernel's words on the serial line (docs/architecture.md, "The kernel's words to xtask").

/// One line of the serial output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    Boot,
    Begin {
        name: String,
    },
    Passed {
        name: String,
        milliseconds: u64,
    },
    Failed {
        name: String,
        text: String,
    },
    Skipped {
        name: String,
        text: String,
    },
    Listed {
        name: String,
    },
    Done {
        passed: u64,
        failed: u64,
        skipped: u64,
    },
    Panic {
        text: String,
    },
    Frame {
        address: u64,
    },
    Time {
        name: String,
        nanoseconds: u64,
    },
    /// A line for people.
    Text(String),
    /// A line for xtask that xtask does not know; shown, so that a disagreement is seen.
    Unknown(String),
}

impl Line {
    pub fn parse(line: &str) -> Self {
        let line = line.trim_end_matches(['\r', '\n']);
        if !line.starts_with('@') {
            return Self::Text(line.into());
        }
        Self::parse_word(line).unwrap_or_else(|| Self::Unknown(line.into()))
    }

    fn parse_word(line: &str) -> Option<Self> {
        let (word, rest) = split(line);
        match word {
            "@boot" => Some(Self::Boot),
            "@panic" => Some(Self::Panic { text: rest.into() }),
            "@frame" => {
                let digits = rest.trim().strip_prefix("0x")?;
                Some(Self::Frame { address: u64::from_str_radix(digits, 16).ok()? })
            }
            "@time" => {
                let (name, number) = named(rest)?;
                Some(Self::Time { name, nanoseconds: number.trim().parse().ok()? })
            }
            "@test" => Self::parse_test(rest),
            _ => None,
        }
    }

    fn parse_test(rest: &str) -> Option<Self> {
        let (word, rest) = split(rest);
        if word == "done" {
            let mut numbers = rest.split_whitespace().map(|number| number.parse().ok());
            let (passed, failed, skipped) = (numbers.next()??, numbers.next()??, numbers.next()??);
            return Some(Self::Done { passed, failed, skipped });
        }
        let (name, rest) = named(rest)?;
        Some(match word {
            "begin" => Self::Begin { name },
            "ok" => Self::Passed { name, milliseconds: rest.trim().parse().ok()? },
            "fail" => Self::Failed { name, text: rest.into() },
            "skip" => Self::Skipped { name, text: rest.into() },
            "list" => Self::Listed { name },
            _ => return None,
        })
    }
}

fn split(text: &str) -> (&str, &str) {
    text.split_once(' ').unwrap_or((text, ""))
}

fn named(text: &str) -> Option<(String, &str)> {
    let (name, rest) = split(text);
    (!name.is_empty()).then(|| (name.to_owned(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_word_of_the_contract() {
        let name = || String::from("paging::maps_4k");
        let cases = [
            ("@boot", Line::Boot),
            ("@test begin paging::maps_4k", Line::Begin { name: name() }),
            ("@test ok paging::maps_4k 12", Line::Passed { name: name(), milliseconds: 12 }),
            ("@test fail paging::maps_4k wrong  word", Line::Failed { name: name(), text: "wrong  word".into() }),
            ("@test skip paging::maps_4k no edu\r\n", Line::Skipped { name: name(), text: "no edu".into() }),
            ("@test list paging::maps_4k", Line::Listed { name: name() }),
            ("@test done 3 1 2", Line::Done { passed: 3, failed: 1, skipped: 2 }),
            ("@panic page fault at 0x10", Line::Panic { text: "page fault at 0x10".into() }),
            ("@frame 0x10203f", Line::Frame { address: 0x10203f }),
            ("@time tour 1500", Line::Time { name: "tour".into(), nanoseconds: 1500 }),
            ("a line @test ok", Line::Text("a line @test ok".into())),
        ];
        for (text, line) in cases {
            assert_eq!(Line::parse(text), line, "{text}");
        }
    }

    #[test]
    fn a_broken_word_is_kept_as_it_is() {
        for text in ["@", "@new thing", "@test", "@test ok x", "@test ok x y", "@test done 1 2", "@frame 12", "@time t"]
        {
            assert_eq!(Line::parse(text), Line::Unknown(text.into()));
        }
    }
}
