//! The key of `auth.dev`: a random secret in the data directory that `haggle token` signs with and the server trusts.

use std::{
    fs,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use crate::failure::{Failure, Kind};

/// Its name in the data directory.
const FILE: &str = "dev.key";

/// Where it lies.
pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

/// The key, if there is one.
pub fn read(data_dir: &Path) -> Result<Option<String>, Failure> {
    match fs::read_to_string(path(data_dir)) {
        Ok(key) if key.trim().len() >= 32 => Ok(Some(key.trim().to_owned())),
        Ok(_) => Err(Failure::new(Kind::DataDir, format!("{} holds no key", path(data_dir).display())).hint("remove the file and start again")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(data_dir, &error)),
    }
}

/// The key, made the first time. Only its owner may read the file.
pub fn read_or_make(data_dir: &Path) -> Result<String, Failure> {
    if let Some(key) = read(data_dir)? {
        return Ok(key);
    }
    let key = random_hex()?;
    write_private(data_dir, &key).map_err(|error| unreadable(data_dir, &error))?;
    Ok(key)
}

fn random_hex() -> Result<String, Failure> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(|error| Failure::failed(format!("no random numbers: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Written beside and renamed, so that a crash leaves no half key.
fn write_private(data_dir: &Path, key: &str) -> std::io::Result<()> {
    fs::create_dir_all(data_dir)?;
    let beside = data_dir.join(".dev.key.new");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&beside)?;
    writeln!(file, "{key}")?;
    file.sync_all()?;
    fs::rename(beside, path(data_dir))
}

fn unreadable(data_dir: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Kind::DataDir, format!("{}: {error}", path(data_dir).display()))
        .hint("make server.data_dir (--data) a directory that this user may write")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_private() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(read(dir.path()).expect("readable"), None);
        let key = read_or_make(dir.path()).expect("made");
        assert_eq!(read_or_make(dir.path()).expect("read"), key);
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path(dir.path())).expect("there").permissions());
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn an_emptied_file_is_an_error_not_a_key() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(path(dir.path()), "\n").expect("written");
        assert_eq!(read_or_make(dir.path()).expect_err("refused").kind, Kind::DataDir);
    }
}
