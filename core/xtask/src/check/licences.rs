//! Licences and bans of everything we build on, by the lists of `config/deny.toml` (the format of cargo-deny).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{packages, text};
use crate::steps::root;

/// The lists.
struct Lists {
    allowed: BTreeSet<String>,
    /// With the crates that may use it all the same; without any it must not be in the tree.
    banned: BTreeMap<String, BTreeSet<String>>,
}

/// Every package with a licence that is not allowed, and every one that is banned.
pub fn problems(metadata: &Value) -> Result<Vec<String>> {
    let path = root().join("config/deny.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let lists = Lists::parse(&text)?;
    Ok(in_use(metadata).iter().flat_map(|package| lists.problems(package)).collect())
}

/// A package that is built, with the names of those it uses.
struct Used<'a> {
    name: &'a str,
    licence: &'a str,
    uses: Vec<&'a str>,
}

/// What the resolved features lead to; the lock file names more.
fn in_use(metadata: &Value) -> Vec<Used<'_>> {
    let by_id: BTreeMap<&str, &Value> = packages(metadata).map(|package| (text(package, "id"), package)).collect();
    let nodes: BTreeMap<&str, &Value> = array(&metadata["resolve"]["nodes"]).map(|node| (text(node, "id"), node)).collect();
    let mut todo: Vec<&str> = array(&metadata["workspace_members"]).filter_map(Value::as_str).collect();
    let mut seen = BTreeSet::new();
    let mut used = Vec::new();
    while let Some(id) = todo.pop() {
        let (true, Some(package)) = (seen.insert(id), by_id.get(id)) else {
            continue;
        };
        let next: Vec<&str> = nodes
            .get(id)
            .map_or_else(Vec::new, |node| array(&node["deps"]).map(|dep| text(dep, "pkg")).collect());
        let uses = next.iter().filter_map(|id| by_id.get(id)).map(|package| text(package, "name")).collect();
        used.push(Used {
            name: text(package, "name"),
            licence: text(package, "license"),
            uses,
        });
        todo.extend(next);
    }
    used
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
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
    use serde_json::json;

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
    fn only_what_is_built_is_looked_at() {
        let package = |id: &str| json!({ "id": id, "name": id, "license": "MIT" });
        let metadata = json!({
            "packages": [package("ours"), package("serde"), package("ring")],
            "workspace_members": ["ours"],
            "resolve": { "nodes": [{ "id": "ours", "deps": [{ "pkg": "serde" }] }, { "id": "serde", "deps": [] }] },
        });
        let names: Vec<_> = in_use(&metadata).iter().map(|used| used.name).collect();
        assert_eq!(names, ["ours", "serde"]);
    }
}
