//! What a filter on full names (`head::module::function`) leaves for one head: a machine, `host`, `tour`...

use crate::machines;

/// The heads besides the machines.
const HEADS: &[&str] = &["check", "host", "emu", "loom", "xtask", "doc", "adopt", "differential", "mutant", "tour"];

/// What names behind `head::` must contain for the full name to contain `filter`; nothing if none can match.
///
/// It may select more than `filter` does, as names behind the head know nothing of it: who needs it exact
/// looks at the full names again.
pub fn behind<'a>(head: &str, filter: &'a str) -> Option<&'a str> {
    let prefix = format!("{head}::");
    if prefix.contains(filter) {
        return Some("");
    }
    // `acy::paging` ends the head `legacy` and begins the rest.
    for (at, _) in filter.match_indices("::") {
        let (start, rest) = filter.split_at(at + 2);
        if prefix.ends_with(start) {
            return Some(rest);
        }
    }
    let foreign = filter.split_once("::").is_some_and(|(other, _)| is_head(other));
    (!foreign).then_some(filter)
}

fn is_head(word: &str) -> bool {
    HEADS.contains(&word) || machines::by_name(word).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_taken_off() {
        assert_eq!(behind("legacy", ""), Some(""));
        assert_eq!(behind("legacy", "legacy"), Some(""));
        assert_eq!(behind("legacy", "egacy::"), Some(""));
        assert_eq!(behind("legacy", "legacy::paging::maps"), Some("paging::maps"));
        assert_eq!(behind("host", "host::paging"), Some("paging"));
    }

    #[test]
    fn other_heads_select_nothing() {
        assert_eq!(behind("legacy", "legacy-39::paging"), None);
        assert_eq!(behind("legacy", "tour::legacy"), None);
        assert_eq!(behind("host", "check::format"), None);
    }

    #[test]
    fn what_names_no_head_stays() {
        assert_eq!(behind("legacy", "paging::maps"), Some("paging::maps"));
        assert_eq!(behind("host", "maps"), Some("maps"));
    }
}
