//! Plugins as the components that a server would load.

use std::{path::Path, sync::Arc};

use haggle_host::{HostLimits, HostOptions, PluginHost};

use crate::{TestServer, server};

impl TestServer {
    /// A server with the plugins of these folders: each holds a `plugin.toml` and the built code that it names. Without
    /// further ado that is what `cargo xtask plugins` makes of a plugin's crate. Nothing in the folders is changed.
    ///
    /// # Panics
    /// Where a plugin cannot be loaded; the message is the one an operator would read.
    pub fn wasm(folders: &[impl AsRef<Path>]) -> TestServer {
        let runtime = server::runtime();
        let home = tempfile::tempdir().expect("a test can make a folder");
        let mut options = HostOptions::new(home.path());
        options.limits = HostLimits {
            pooling: false,
            ..HostLimits::default()
        };
        let host = runtime.block_on(async {
            let host = PluginHost::start(options)
                .await
                .unwrap_or_else(|error| panic!("the plugin host does not start: {error}"));
            for folder in folders {
                let folder = folder.as_ref();
                if let Err(error) = host.install(folder).await {
                    panic!("{} cannot be loaded: {error}", folder.display());
                }
            }
            host
        });
        let mut server = TestServer::start_on(runtime, Arc::new(host), None);
        server.folder = Some(home);
        server
    }
}
