//! Finds the Debian mirror that the machine's own apt configuration names.

use std::fs;
use std::path::{Path, PathBuf};

/// A place that packages come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub uri: String,
    pub suites: Vec<String>,
    pub components: Vec<String>,
}

impl Source {
    /// Whether it is Debian's main archive, and neither its security archive nor someone else's.
    fn is_debian(&self) -> bool {
        let path = self.uri.trim_end_matches('/');
        let name = path.rsplit('/').next().unwrap_or("");
        let foreign = path.contains("ubuntu") || name.contains("security");
        let suite = self.suites.iter().any(|suite| DEBIAN_SUITES.contains(&base_suite(suite)));
        suite && !foreign && self.components.iter().any(|component| component == "main")
    }
}

const DEBIAN_SUITES: &[&str] = &[
    "oldoldstable",
    "oldstable",
    "stable",
    "testing",
    "unstable",
    "sid",
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
];

fn base_suite(suite: &str) -> &str {
    suite.strip_suffix("-updates").or_else(|| suite.strip_suffix("-backports")).unwrap_or(suite)
}

/// The mirror to fetch Debian's packages from; nothing where apt names none (Debian's derivatives).
pub fn mirror() -> Option<String> {
    choose(&configured(Path::new("/etc/apt")))
}

fn choose(sources: &[Source]) -> Option<String> {
    let found = sources.iter().find(|source| source.is_debian());
    found.map(|source| source.uri.trim_end_matches('/').to_owned())
}

fn configured(etc: &Path) -> Vec<Source> {
    let mut files: Vec<PathBuf> = fs::read_dir(etc.join("sources.list.d"))
        .map(|dir| dir.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.sort();
    files.insert(0, etc.join("sources.list"));
    let mut sources = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.extend(text.lines().filter_map(parse_line)),
            Some("sources") => sources.extend(parse_deb822(&text)),
            _ => {}
        }
    }
    sources
}

/// `deb [options] uri suite component...`
fn parse_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let mut rest = line.strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
    if rest.starts_with('[') {
        rest = rest.split_once(']')?.1.trim_start();
    }
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(Source { uri: words.next()?, suites: vec![words.next()?], components: words.collect() })
}

/// Paragraphs of `Field: values`, continued by indented lines.
fn parse_deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let text: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for paragraph in text.split(|line| line.trim().is_empty()) {
        let mut fields: Vec<(String, Vec<String>)> = Vec::new();
        for line in paragraph {
            let continued = line.starts_with([' ', '\t']);
            let (name, values) = match line.split_once(':') {
                Some((name, values)) if !continued => (Some(name), values),
                _ => (None, *line),
            };
            if let Some(name) = name {
                fields.push((name.trim().to_ascii_lowercase(), Vec::new()));
            }
            if let Some((_, list)) = fields.last_mut() {
                list.extend(values.split_whitespace().map(str::to_owned));
            }
        }
        let get = |name: &str| fields.iter().find(|(field, _)| field == name).map_or(&[][..], |(_, list)| &list[..]);
        let disabled = get("enabled").iter().any(|value| matches!(value.as_str(), "no" | "false" | "off" | "0"));
        if disabled || !get("types").iter().any(|kind| kind == "deb") {
            continue;
        }
        for uri in get("uris") {
            let (suites, components) = (get("suites").to_vec(), get("components").to_vec());
            sources.push(Source { uri: uri.clone(), suites, components });
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCES: &str = "\
Types: deb
# a snapshot
URIs: http://security.example/debian-security
Suites: bookworm-security
Components: main

Types: deb deb-src
URIs: http://old.example/debian/
Suites: bookworm
Components: main
Enabled: no

Types: deb
URIs: http://mirror.example/debian/
Suites: bookworm
 bookworm-updates
Components: main contrib
";

    #[test]
    fn takes_the_main_archive_of_a_sources_file() {
        let sources = parse_deb822(SOURCES);
        assert_eq!(sources.len(), 2);
        assert_eq!(sources[1].suites, ["bookworm", "bookworm-updates"]);
        assert_eq!(choose(&sources).as_deref(), Some("http://mirror.example/debian"));
    }

    #[test]
    fn takes_the_main_archive_of_a_list() {
        let text = "# deb http://off.example/debian bookworm main\n\
            deb-src http://src.example/debian bookworm main\n\
            deb http://packages.example/apt tool-bookworm main\n\
            deb [signed-by=/k.gpg arch=amd64] https://mirror.example/debian trixie main # here\n";
        let sources: Vec<Source> = text.lines().filter_map(parse_line).collect();
        assert_eq!(sources.len(), 2);
        assert_eq!(choose(&sources).as_deref(), Some("https://mirror.example/debian"));
    }

    #[test]
    fn foreign_archives_are_not_debian() {
        let line = "deb http://archive.example/ubuntu stable main";
        assert!(!parse_line(line).unwrap().is_debian());
        assert_eq!(choose(&[]), None);
    }
}
