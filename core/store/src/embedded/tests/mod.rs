//! The suite, and what is particular to files on a disk.

use std::sync::Arc;

use super::{EmbeddedOptions, EmbeddedStore};
use crate::suite::{Opener, Opening};

/// Opens the same temporary directory again and again.
fn opener() -> Opener {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    Box::new(move || {
        let dir = dir.clone();
        let opening: Opening = Box::pin(async move {
            let store = EmbeddedStore::open(dir.path(), EmbeddedOptions::default()).unwrap();
            Arc::new(store) as crate::SharedStore
        });
        opening
    })
}

mod suite {
    crate::store_suite!(super::opener());
}
