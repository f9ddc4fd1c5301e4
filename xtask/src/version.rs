//! Version numbers of QEMU.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

impl Version {
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// Reads `QEMU emulator version 11.1.3 (Debian ...)`, or a package's `1:11.1.3+ds-1~bpo13+1`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = match text.split_once("version ") {
            Some((_, rest)) => rest,
            None => text.split_once(':').map_or(text, |(_, rest)| rest),
        };
        let numbers: &str = text.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        let mut parts = numbers.split('.').map(|part| part.parse().ok());
        Some(Self { major: parts.next()??, minor: parts.next()??, patch: parts.next().flatten().unwrap_or(0) })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_qemu_and_debian_say() {
        let wanted = Some(Version::new(11, 1, 3));
        assert_eq!(Version::parse("QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)"), wanted);
        assert_eq!(Version::parse("1:11.1.3+ds-1~bpo13+1"), wanted);
        assert_eq!(Version::parse("QEMU emulator version 10.0.50 (v10.0.0-rc1)"), Some(Version::new(10, 0, 50)));
        assert_eq!(Version::parse("QEMU emulator version 12.0"), Some(Version::new(12, 0, 0)));
        assert_eq!(Version::parse("no such thing"), None);
    }

    #[test]
    fn orders_by_number_not_by_text() {
        assert!(Version::new(9, 2, 0) < Version::new(10, 0, 2));
        assert!(Version::new(10, 0, 2) < Version::new(10, 1, 0));
    }
}
