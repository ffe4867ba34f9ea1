//! "Did you mean": the known key that is nearest to an unknown one.

/// The nearest of `known`, if one is near enough to be meant.
pub fn nearest<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let best = known.into_iter().map(|key| (likeness(unknown, key), key)).min()?;
    let enough = (unknown.len() / 3).max(2);
    (best.0 <= enough).then_some(best.1)
}

/// The edit distance; a key under the wrong section is nearly as good as the key itself.
fn likeness(unknown: &str, key: &str) -> usize {
    let whole = distance(unknown, key);
    let lasts = distance(last(unknown), last(key)) + 1;
    whole.min(lasts)
}

fn last(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

/// Levenshtein's distance in bytes; keys are ASCII.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 4] = ["server.listen", "server.admin", "auth.secret", "limits.page_max"];

    #[track_caller]
    fn check(unknown: &str, expect: Option<&str>) {
        assert_eq!(nearest(unknown, KNOWN), expect);
    }

    #[test]
    fn a_typo_is_recognised() {
        check("server.lisen", Some("server.listen"));
    }

    #[test]
    fn a_key_without_its_section_is_recognised() {
        check("listen", Some("server.listen"));
    }

    #[test]
    fn a_key_under_another_section_is_recognised() {
        check("server.page_max", Some("limits.page_max"));
    }

    #[test]
    fn nonsense_has_no_suggestion() {
        check("colour.of.the.sky", None);
    }
}
