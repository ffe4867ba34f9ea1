//! What may stand at the top of the repository, and what each crate must have.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result};

use crate::steps::{output, root};

/// Everything else needs a better place (deploy files: `config/`).
const TOP_LEVEL: [&str; 9] = [
    "Cargo.toml",
    "Cargo.lock",
    "core",
    "plugins",
    "sdk",
    "config",
    "examples",
    "bench",
    "docs",
];

/// A file with more lines is hard to read.
const LINES_MAX: usize = 1_500;

/// Every rule that is broken.
pub fn problems() -> Result<Vec<String>> {
    let files = tracked()?;
    let mut problems = top_level(&files);
    for file in files.iter().filter(|file| file.ends_with(".rs")) {
        let Ok(text) = fs::read_to_string(root().join(file)) else { continue };
        problems.extend(of_source(file, &text));
    }
    problems.extend(broken_links(&root(), files.iter().filter(|file| file.ends_with(".md")))?);
    Ok(problems)
}

fn tracked() -> Result<Vec<String>> {
    let list = output(
        std::process::Command::new("git")
            .args(["-c", "safe.directory=*", "ls-files"])
            .current_dir(root()),
    )?;
    Ok(list.lines().map(str::to_owned).collect())
}

fn top_level(files: &[String]) -> Vec<String> {
    let names: BTreeSet<&str> = files.iter().filter_map(|file| file.split('/').next()).collect();
    let may_stand = |name: &&str| TOP_LEVEL.contains(name) || *name == "README.md" || name.starts_with('.') || name.starts_with("LICENSE");
    names
        .into_iter()
        .filter(|name| !may_stand(name))
        .map(|name| format!("`{name}` must not stand at the top level"))
        .collect()
}

fn of_source(file: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    if lines > LINES_MAX {
        vec![format!("{file} has {lines} lines, more than {LINES_MAX}: split it")]
    } else {
        Vec::new()
    }
}

/// Relative links of the docs lead to files that exist.
fn broken_links<'a>(root: &Path, pages: impl Iterator<Item = &'a String>) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for page in pages {
        let path = root.join(page);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {page}"))?;
        let dir = path.parent().unwrap_or(root);
        for link in links(&text).filter(|link| !dir.join(link).exists()) {
            problems.push(format!("{page} links to {link}, which is not there"));
        }
    }
    Ok(problems)
}

/// Targets of `[text](target)` that are paths, without their fragments.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets
        .filter(|target| !target.contains("://") && !target.starts_with("mailto:") && !target.contains(char::is_whitespace))
        .map(|target| target.split('#').next().unwrap_or_default())
        .filter(|path| !path.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_at_the_top_level_are_named() {
        let files = ["README.md", ".gitignore", "core/a.rs", "LICENSE-MIT", "notes.txt", "tools/x"].map(String::from);
        assert_eq!(
            top_level(&files),
            ["`notes.txt` must not stand at the top level", "`tools` must not stand at the top level"]
        );
    }

    #[test]
    fn links_to_files_are_found() {
        let text = "[a](docs/A.md) [b](https://x.example) [c](#here) [d](B.md#part)";
        assert_eq!(links(text).collect::<Vec<_>>(), ["docs/A.md", "B.md"]);
    }

    #[test]
    fn long_files_are_named() {
        assert!(of_source("a.rs", &"x\n".repeat(LINES_MAX)).is_empty());
        assert_eq!(of_source("a.rs", &"x\n".repeat(LINES_MAX + 1)).len(), 1);
    }
}
