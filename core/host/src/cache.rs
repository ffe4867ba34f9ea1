//! Compiled code kept between starts.
//!
//! Loading machine code is as dangerous as running it, so the folder must belong to this user alone (mode 0700), every file
//! carries a MAC under a key that lives in the folder, and files that users bring are never loaded this way.

use std::{
    fs,
    hash::{Hash, Hasher},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use haggle_model::Hex;
use wasmtime::{Engine, component::Component};

const KEY_FILE: &str = "key";
const MAC_BYTES: usize = 32;
/// Files of other engine versions or of plugins that are gone are removed beyond so many.
const FILES_MAX: usize = 256;

pub(crate) struct Cache {
    dir: PathBuf,
    key: [u8; 32],
}

impl Cache {
    /// Opens the folder, making it and its key where they are missing. Fails where others may write to it.
    pub(crate) fn open(dir: &Path) -> io::Result<Cache> {
        make_private_dir(dir)?;
        check_private(dir, dir)?;
        let key = read_or_make_key(dir)?;
        Ok(Cache { dir: dir.to_owned(), key })
    }

    /// The compiled component, if it is here, whole and made by this very engine.
    pub(crate) fn get(&self, engine: &Engine, digest: &[u8; 32]) -> Option<Component> {
        let path = self.path(engine, digest);
        let file = fs::read(&path).ok()?;
        let (mac, code) = file.split_at_checked(MAC_BYTES)?;
        if self.mac(&path, code) != *<&[u8; MAC_BYTES]>::try_from(mac).ok()? {
            tracing::warn!(file = %path.display(), "compiled plugin code was changed or cut; it is compiled again");
            let _ = fs::remove_file(&path);
            return None;
        }
        // SAFETY: the MAC shows that these bytes were written by `put`, which had them from `Component::serialize`.
        let component = unsafe { Component::deserialize(engine, code) };
        component
            .inspect_err(|error| tracing::warn!(%error, "compiled plugin code does not load; it is compiled again"))
            .ok()
    }

    /// Keeps a compiled component. Failure costs only time at the next start, so it is logged and forgotten.
    pub(crate) fn put(&self, engine: &Engine, digest: &[u8; 32], component: &Component) {
        let kept = component.serialize().map_err(|error| error.to_string()).and_then(|code| {
            let path = self.path(engine, digest);
            write_whole(&path, &[self.mac(&path, &code).as_slice(), &code]).map_err(|error| error.to_string())
        });
        match kept {
            Ok(()) => self.sweep(),
            Err(error) => tracing::warn!(error, "compiled plugin code could not be kept"),
        }
    }

    fn path(&self, engine: &Engine, digest: &[u8; 32]) -> PathBuf {
        let mut hasher = Blake::default();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        self.dir.join(format!("{}-{:016x}.cwasm", Hex::<64>::of(digest), hasher.finish()))
    }

    /// Covers the name too: a file renamed to another plugin's is not taken for it.
    fn mac(&self, path: &Path, code: &[u8]) -> [u8; MAC_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        hasher.update(&(name.len() as u64).to_le_bytes()).update(name).update(code);
        *hasher.finalize().as_bytes()
    }

    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        let is_code = |path: &Path| path.extension().is_some_and(|extension| extension == "cwasm");
        let mut files: Vec<_> = entries.flatten().filter(|entry| is_code(&entry.path())).collect();
        if files.len() <= FILES_MAX {
            return;
        }
        files.sort_by_key(|entry| entry.metadata().and_then(|meta| meta.modified()).ok());
        for entry in &files[..files.len() - FILES_MAX] {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A hasher whose result does not change from run to run.
#[derive(Default)]
struct Blake(blake3::Hasher);

impl Hasher for Blake {
    fn finish(&self) -> u64 {
        let hash = self.0.finalize();
        u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("8 of 32 bytes"))
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

fn write_whole(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let mut file = private_file(&temporary)?;
    for part in parts {
        file.write_all(part)?;
    }
    drop(file);
    fs::rename(&temporary, path)
}

fn read_or_make_key(dir: &Path) -> io::Result<[u8; 32]> {
    let path = dir.join(KEY_FILE);
    let mut key = [0; 32];
    match fs::File::open(&path) {
        Ok(mut file) => {
            check_private(&path, dir)?;
            file.read_exact(&mut key)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
            write_whole(&path, &[&key])?;
        }
        Err(error) => return Err(error),
    }
    Ok(key)
}

#[cfg(unix)]
fn make_private_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

#[cfg(not(unix))]
fn make_private_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)
}

#[cfg(unix)]
fn private_file(path: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

#[cfg(not(unix))]
fn private_file(path: &Path) -> io::Result<fs::File> {
    fs::File::create(path)
}

/// Belongs to this user, and nobody else may write to it. Who "this user" is shows in a file made just now.
#[cfg(unix)]
fn check_private(path: &Path, dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(path)?;
    let probe = dir.join(format!("owner{}", std::process::id()));
    let owner = private_file(&probe)?.metadata()?.uid();
    let _ = fs::remove_file(&probe);
    if meta.uid() != owner {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} belongs to another user", path.display()),
        ));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} is open to other users; chmod it to 0700", path.display()),
        ));
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_private(_: &Path, _: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine() -> Engine {
        Engine::default()
    }

    fn component(engine: &Engine) -> Component {
        Component::new(engine, wat::parse_str("(component)").unwrap()).expect("an empty component compiles")
    }

    #[test]
    fn what_was_put_comes_back_also_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let (dir, engine) = (dir.path().join("cache"), engine());
        Cache::open(&dir).unwrap().put(&engine, &[7; 32], &component(&engine));
        let cache = Cache::open(&dir).unwrap();
        assert!(cache.get(&engine, &[7; 32]).is_some());
        assert!(cache.get(&engine, &[8; 32]).is_none());
    }

    #[test]
    fn changed_cut_and_renamed_files_are_not_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let (dir, engine) = (dir.path().join("cache"), engine());
        let cache = Cache::open(&dir).unwrap();
        let path = cache.path(&engine, &[7; 32]);
        let changes: [fn(&mut Vec<u8>); 3] = [|file| file[40] ^= 1, |file| file.truncate(20), |file| file.truncate(100)];
        for spoil in changes {
            cache.put(&engine, &[7; 32], &component(&engine));
            let mut file = fs::read(&path).unwrap();
            spoil(&mut file);
            fs::write(&path, file).unwrap();
            assert!(cache.get(&engine, &[7; 32]).is_none());
        }
        cache.put(&engine, &[7; 32], &component(&engine));
        fs::rename(&path, cache.path(&engine, &[9; 32])).unwrap();
        assert!(cache.get(&engine, &[9; 32]).is_none());
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_open_to_others_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("cache");
        Cache::open(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(Cache::open(&dir).err().unwrap().kind(), io::ErrorKind::PermissionDenied);
    }
}
