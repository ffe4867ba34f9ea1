//! Licences and bans of everything we build on, by the lists of `config/deny.toml` (the format of cargo-deny).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

use crate::steps::{cargo, output, root};

/// The lists.
struct Lists {
    allowed: BTreeSet<String>,
    /// With the crates that may use it all the same; without any it must not be in the tree.
    banned: BTreeMap<String, BTreeSet<String>>,
}

/// Every package with a licence that is not allowed, and every one that is banned.
pub fn problems() -> Result<Vec<String>> {
    let path = root().join("config/deny.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let lists = Lists::parse(&text)?;
    // `cargo metadata` names optional packages that no feature leads to; the tree does not.
    let tree = output(cargo().args([
        "tree",
        "--workspace",
        "--locked",
        "--target",
        "all",
        "--prefix",
        "depth",
        "-f",
        "|{p}|{l}",
    ]))?;
    Ok(in_use(&tree).iter().flat_map(|package| lists.problems(package)).collect())
}

/// A package that is built, with the names of those it uses.
#[derive(Debug, Default, PartialEq, Eq)]
struct Used<'a> {
    name: &'a str,
    licence: &'a str,
    uses: Vec<&'a str>,
}

/// The packages of a tree whose lines are `DEPTH|NAME VERSION …|LICENCE`; what was shown before ends with `(*)`.
fn in_use(tree: &str) -> Vec<Used<'_>> {
    let mut packages: BTreeMap<&str, Used<'_>> = BTreeMap::new();
    let mut path: Vec<&str> = Vec::new();
    for line in tree.lines() {
        let mut parts = line.splitn(3, '|');
        let (Some(depth), Some(package), Some(licence)) = (parts.next().and_then(|depth| depth.parse().ok()), parts.next(), parts.next()) else {
            continue;
        };
        // Versions of one name are told apart: their licences may differ.
        let package = package.split(" (").next().unwrap_or(package);
        path.truncate(depth);
        if let Some(parent) = path.last().and_then(|parent| packages.get_mut(parent)) {
            parent.uses.push(name_of(package));
        }
        path.push(package);
        let licence = licence.trim_end_matches("(*)").trim();
        packages.entry(package).or_insert_with(|| Used {
            name: name_of(package),
            licence,
            uses: Vec::new(),
        });
    }
    packages.into_values().collect()
}

fn name_of(package: &str) -> &str {
    package.split(' ').next().unwrap_or(package)
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
            allowed: strings(&allowed),
            banned: banned.iter().filter_map(ban).collect(),
        })
    }

    fn problems(&self, package: &Used<'_>) -> Vec<String> {
        let Used { name, licence, uses } = package;
        let mut problems = Vec::new();
        if self.banned.get(*name).is_some_and(BTreeSet::is_empty) {
            problems.push(format!("{name} is banned"));
        }
        for used in uses {
            if self
                .banned
                .get(*used)
                .is_some_and(|wrappers| !wrappers.is_empty() && !wrappers.contains(*name))
            {
                problems.push(format!("{name} must not use {used}"));
            }
        }
        if !self.allows(licence) {
            problems.push(format!("{name}: the licence `{licence}` is not allowed"));
        }
        problems
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

fn strings(array: &[toml::Value]) -> BTreeSet<String> {
    array.iter().filter_map(toml::Value::as_str).map(str::to_owned).collect()
}

fn ban(ban: &toml::Value) -> Option<(String, BTreeSet<String>)> {
    let wrappers = ban.get("wrappers").and_then(toml::Value::as_array).map(|array| strings(array));
    Some((ban.get("crate")?.as_str()?.to_owned(), wrappers.unwrap_or_default()))
}

type Words<'a> = std::iter::Peekable<std::vec::IntoIter<&'a str>>;

#[cfg(test)]
mod tests {
    use super::*;

    const LISTS: &str = r#"
        [licenses]
        allow = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"]
        [bans]
        deny = [{ crate = "openssl", reason = "one crypto provider" }, { crate = "chrono", wrappers = ["croner"] }]
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

    fn used<'a>(name: &'a str, uses: &[&'a str]) -> Used<'a> {
        Used {
            name,
            licence: "MIT",
            uses: uses.to_vec(),
        }
    }

    #[test]
    fn banned_crates_are_named() {
        let lists = Lists::parse(LISTS).expect("lists");
        assert_eq!(lists.problems(&used("openssl", &[])), ["openssl is banned"]);
        assert!(lists.problems(&used("serde", &[])).is_empty());
    }

    #[test]
    fn a_ban_with_wrappers_is_for_everybody_else() {
        let lists = Lists::parse(LISTS).expect("lists");
        assert!(lists.problems(&used("croner", &["chrono"])).is_empty());
        assert_eq!(lists.problems(&used("haggle-engine", &["chrono"])), ["haggle-engine must not use chrono"]);
    }

    #[test]
    fn a_tree_is_read() {
        let tree = "0|ours v1.0.0 (/here)|MIT\n1|serde v1.0.1|MIT OR Apache-2.0\n2|core v1.0.0|MIT\n1|core v1.0.0|MIT (*)\n";
        let of = |name, licence, uses: &[&'static str]| Used {
            name,
            licence,
            uses: uses.to_vec(),
        };
        let expect = [
            of("core", "MIT", &[]),
            of("ours", "MIT", &["serde", "core"]),
            of("serde", "MIT OR Apache-2.0", &["core"]),
        ];
        assert_eq!(in_use(tree), expect);
    }
}
