//! docs/emulator.md says what there is: every rule of the oracle, every shipped profile, no rule that is not there.

const GUIDE: &str = include_str!("../README.md");
const ORACLE: &str = include_str!("../src/oracle/mod.rs");

/// The names in a piece of Rust that stand alone on their lines, as the variants of an enumeration do.
fn variants(of: &str) -> Vec<&str> {
    let (_, rest) = ORACLE.split_once(&format!("pub enum {of} {{")).expect("the enumeration");
    let (body, _) = rest.split_once("\n}").expect("its end");
    body.lines().filter_map(|line| line.trim().strip_suffix(',')).filter(|name| !name.contains(' ')).collect()
}

#[test]
fn the_table_of_rules_is_whole() {
    let rules = variants("Rule");
    assert!(rules.len() > 5, "{rules:?}");
    let (_, table) = GUIDE.split_once("| rule | the duty |\n|---|---|\n").expect("the table");
    let (table, _) = table.split_once("\n\n").expect("its end");
    let mut rows: Vec<&str> = table.lines().map(|row| row.split('`').nth(1).unwrap_or(row)).collect();
    for rule in &rules {
        assert!(rows.contains(rule), "the guide does not tell of the rule {rule}");
    }
    rows.retain(|row| !rules.contains(row));
    assert!(rows.is_empty(), "no such rules: {rows:?}");
}

#[test]
fn the_switches_are_there() {
    let (_, table) = GUIDE.split_once("## The switches").expect("the switches");
    let (table, _) = table.split_once("## The oracle").expect("their end");
    let sources = [
        ORACLE,
        include_str!("../src/profile/shipped.rs"),
        include_str!("../src/profile.rs"),
        include_str!("../src/unit.rs"),
        include_str!("../src/pace.rs"),
        include_str!("../src/caches/mod.rs"),
        include_str!("../src/machine/mod.rs"),
        include_str!("../src/machine/probes.rs"),
        include_str!("../src/adversary.rs"),
        include_str!("../src/translate/mod.rs"),
    ];
    let names = table.split('`').skip(1).step_by(2);
    let functions = names.map(|name| name.rsplit("::").next().unwrap_or(name).split('(').next().unwrap_or(name));
    for name in functions.filter(|name| name.starts_with(char::is_lowercase)) {
        let there = sources
            .iter()
            .any(|source| source.contains(&format!("fn {name}(")) || source.contains(&format!("fn {name}<")));
        assert!(there, "there is no function {name}");
    }
}
