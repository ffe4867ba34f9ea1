//! Which plugins stand in the folder, and what of them changes.
//!
//! The folder is looked through at an interval rather than by file-system events: that works on every file system and mount,
//! and "stood still for one interval" is the debounce that half-copied files need anyway.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Weak,
    time::{Duration, SystemTime},
};

use crate::{
    host::Inner,
    loader::{MANIFEST_NAME, Source, read_manifest},
};

/// Entries of the plugins' folder that are looked at.
const ENTRIES_MAX: usize = 1024;

/// Every plugin in the folder: `<name>/plugin.toml` or `<name>.toml`, by name. Names that begin with a dot are left alone.
pub(crate) fn scan(dir: &Path) -> Vec<Source> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let is_hidden = |path: &Path| path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let mut paths: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| !is_hidden(path))
        .take(ENTRIES_MAX)
        .collect();
    paths.sort();
    paths
        .into_iter()
        .filter_map(|path| manifest_at(&path))
        .map(|manifest| Source { manifest })
        .collect()
}

fn manifest_at(path: &Path) -> Option<PathBuf> {
    let is_flat = path.extension().is_some_and(|extension| extension == "toml");
    let manifest = if path.is_dir() { path.join(MANIFEST_NAME) } else { path.to_owned() };
    (manifest.is_file() && (is_flat || path.is_dir())).then_some(manifest)
}

/// The plugin with this id in the folder.
pub(crate) fn find(dir: &Path, id: &str) -> Option<Source> {
    scan(dir)
        .into_iter()
        .find(|source| read_manifest(&source.manifest).is_ok_and(|manifest| manifest.id.as_str() == id))
}

/// Times and sizes of the files of one plugin.
type Print = [Option<(SystemTime, u64)>; 2];

fn print(source: &Source) -> Print {
    let look = |path: &Path| fs::metadata(path).ok().and_then(|meta| Some((meta.modified().ok()?, meta.len())));
    let code = read_manifest(&source.manifest)
        .ok()
        .and_then(|manifest| look(&source.manifest.with_file_name(manifest.wasm)));
    [look(&source.manifest), code]
}

fn prints(dir: &Path) -> BTreeMap<PathBuf, Print> {
    scan(dir)
        .into_iter()
        .map(|source| {
            let print = print(&source);
            (source.manifest, print)
        })
        .collect()
}

/// What was seen of one plugin: as it was taken, and as it was last seen.
struct Seen {
    taken: Option<Print>,
    last: Print,
}

pub(crate) async fn watch(host: Weak<Inner>, interval: Duration) {
    let Some(dir) = host.upgrade().map(|inner| inner.options.plugins_dir.clone()) else {
        return;
    };
    let mut seen: BTreeMap<PathBuf, Seen> = look(&dir)
        .await
        .into_iter()
        .map(|(path, print)| {
            (
                path,
                Seen {
                    taken: Some(print),
                    last: print,
                },
            )
        })
        .collect();
    loop {
        tokio::time::sleep(interval).await;
        let now = look(&dir).await;
        let Some(inner) = host.upgrade() else { return };
        for (manifest, print) in &now {
            let entry = seen.entry(manifest.clone()).or_insert(Seen {
                taken: None,
                last: [None; 2],
            });
            let is_settled = entry.last == *print;
            entry.last = *print;
            if is_settled && entry.taken != Some(*print) {
                entry.taken = Some(*print);
                // A failure is listed and logged; the running version stays.
                let _ = inner.clone().load_detached(Source { manifest: manifest.clone() }).await;
            }
        }
        let vanished: Vec<_> = seen.keys().filter(|path| !now.contains_key(*path)).cloned().collect();
        for manifest in vanished {
            seen.remove(&manifest);
            inner.gone(&Source { manifest }).await;
        }
    }
}

async fn look(dir: &Path) -> BTreeMap<PathBuf, Print> {
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || prints(&dir)).await.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_flat_pairs_are_found_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        ["b/plugin.toml", "a.toml", "a.wasm", "c/readme.md", ".previous/d/plugin.toml", "notes.txt"]
            .into_iter()
            .for_each(write);
        let found: Vec<_> = scan(dir.path())
            .into_iter()
            .map(|source| source.manifest.strip_prefix(dir.path()).unwrap().to_owned())
            .collect();
        assert_eq!(found, [PathBuf::from("a.toml"), PathBuf::from("b/plugin.toml")]);
    }
}
