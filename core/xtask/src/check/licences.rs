//! Licences and bans of everything we build on, by the lists of `config/deny.toml` (the format of cargo-deny).

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{packages, text};
use crate::steps::root;

/// The lists.
struct Lists {
    allowed: BTreeSet<String>,
    banned: BTreeSet<String>,
}

/// Every package with a licence that is not allowed, and every one that is banned.
pub fn problems(metadata: &Value) -> Result<Vec<String>> {
    let path = root().join("config/deny.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let lists = Lists::parse(&text)?;
    Ok(packages(metadata).filter_map(|package| lists.problem(package)).collect())
}

impl Lists {
    fn parse(toml: &str) -> Result<Lists> {
        let table: toml::Table = toml::from_str(toml)?;
        let array = |section: &str, key: &str| {
            table
                .get(section)
                .and_then(|section| section.get(key))
                .and_then(toml::Value::as_array)
                .cloned()
        };
        let allowed = array("licenses", "allow").context("[licenses] allow is missing")?;
        let banned = array("bans", "deny").context("[bans] deny is missing")?;
        Ok(Lists {
            allowed: allowed.iter().filter_map(toml::Value::as_str).map(str::to_owned).collect(),
            banned: banned
                .iter()
                .filter_map(|ban| ban.get("crate").or_else(|| ban.get("name"))?.as_str())
                .map(str::to_owned)
                .collect(),
        })
    }

    fn problem(&self, package: &Value) -> Option<String> {
        let name = text(package, "name");
        if self.banned.contains(name) {
            return Some(format!("{name} is banned"));
        }
        let licence = text(package, "license");
        (!self.allows(licence)).then(|| format!("{name}: the licence `{licence}` is not allowed"))
    }

    /// Whether an SPDX expression can be met with what is allowed. `/` is an old way to write OR.
    fn allows(&self, expression: &str) -> bool {
        let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
        let mut words = spaced.split_whitespace().collect::<Vec<_>>().into_iter().peekable();
        let allowed = self.any(&mut words);
        allowed && words.next().is_none()
    }

    fn any(&self, words: &mut Words<'_>) -> bool {
        let mut allowed = self.all(words);
        while words.next_if_eq(&"OR").is_some() {
            // Not short-circuit: the words must be consumed.
            allowed |= self.all(words);
        }
        allowed
    }

    fn all(&self, words: &mut Words<'_>) -> bool {
        let mut allowed = self.one(words);
        while words.next_if_eq(&"AND").is_some() {
            allowed &= self.one(words);
        }
        allowed
    }

    fn one(&self, words: &mut Words<'_>) -> bool {
        match words.next() {
            Some("(") => {
                let allowed = self.any(words);
                words.next_if_eq(&")").is_some() && allowed
            }
            Some(name) => {
                let exception = words.next_if_eq(&"WITH").and_then(|_| words.next());
                self.allowed
                    .contains(&exception.map_or_else(|| name.to_owned(), |exception| format!("{name} WITH {exception}")))
            }
            None => false,
        }
    }
}

type Words<'a> = std::iter::Peekable<std::vec::IntoIter<&'a str>>;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LISTS: &str = r#"
        [licenses]
        allow = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"]
        [bans]
        deny = [{ crate = "openssl", reason = "one crypto provider" }]
    "#;

    #[track_caller]
    fn check(expression: &str, expect: bool) {
        assert_eq!(Lists::parse(LISTS).expect("lists").allows(expression), expect, "{expression}");
    }

    #[test]
    fn one_of_several_is_enough() {
        check("MIT OR GPL-2.0", true);
        check("GPL-2.0 OR MIT", true);
        check("MIT/GPL-2.0", true);
        check("GPL-2.0", false);
    }

    #[test]
    fn all_of_several_are_needed() {
        check("MIT AND Apache-2.0", true);
        check("MIT AND GPL-2.0", false);
        check("(MIT OR GPL-2.0) AND Apache-2.0", true);
        check("(MIT AND GPL-2.0) OR Apache-2.0", true);
    }

    #[test]
    fn exceptions_are_part_of_the_name() {
        check("Apache-2.0 WITH LLVM-exception", true);
        check("Apache-2.0 WITH Other-exception", false);
    }

    #[test]
    fn what_is_no_expression_is_not_allowed() {
        for wrong in ["", "(MIT", "MIT Apache-2.0", "OR MIT"] {
            check(wrong, false);
        }
    }

    #[test]
    fn banned_crates_are_named() {
        let lists = Lists::parse(LISTS).expect("lists");
        assert_eq!(
            lists.problem(&json!({ "name": "openssl", "license": "MIT" })).as_deref(),
            Some("openssl is banned")
        );
        assert_eq!(lists.problem(&json!({ "name": "serde", "license": "MIT" })), None);
    }
}
