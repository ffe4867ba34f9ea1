//! The plugins of this process: loading, replacing, removing, listing. What runs is in [`Registry`]; this is who swaps it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::{Duration, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use haggle_engine::ports::{Hook, Hooks, Plan};
use haggle_model::{Hex, PluginId};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::task::JoinHandle;

use crate::{
    loader::{CheckReport, LoadError, Loader, MANIFEST_NAME, Source, read_manifest},
    metrics,
    options::HostOptions,
    plugin::Plugin,
    registry::Registry,
    watcher,
};

/// Folder in the plugins' folder for versions that were replaced or removed; one per plugin.
const PREVIOUS: &str = ".previous";
/// Folder in which an installation is put together.
const STAGING: &str = ".staging";
/// Files that one installation copies.
const INSTALL_FILES_MAX: usize = 64;
/// How often gauges of instances are sampled.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// All plugins of a server. Clones are the same host.
#[derive(Clone)]
pub struct PluginHost {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) options: Arc<HostOptions>,
    loader: Arc<Loader>,
    registry: ArcSwap<Registry>,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
    slots: Mutex<BTreeMap<PluginId, Slot>>,
}

/// What is known of a plugin besides its running version.
#[derive(Clone, Debug)]
struct Slot {
    source: Source,
    error: Option<LoadError>,
}

/// A plugin as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PluginStatus {
    /// Its id; of files without a readable manifest, their name.
    pub id: String,
    /// A version of it is running.
    pub active: bool,
    /// Why its newest version is not running.
    pub error: Option<String>,
    /// Where its manifest is.
    pub manifest: PathBuf,
    /// The running version.
    pub running: Option<RunningVersion>,
}

/// The running version of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunningVersion {
    /// The author's version.
    pub version: String,
    /// One line of its author.
    pub description: String,
    /// The contract version.
    pub api: String,
    /// Digest of its code, in hex.
    pub sha256: String,
    /// Its compiled code came from the cache.
    pub from_cache: bool,
    /// When it became active, in milliseconds since the epoch.
    pub loaded_at_ms: u64,
    /// Exported hooks.
    pub hooks: Vec<&'static str>,
    /// Granted capabilities.
    pub grants: Vec<&'static str>,
    /// Claimed kinds of message.
    pub claims: Vec<String>,
    /// Commands.
    pub commands: Vec<String>,
    /// Method and path.
    pub routes: Vec<String>,
    /// Socket.IO namespaces that it can own.
    pub namespaces: Vec<String>,
    /// Hooks that are not called now because they failed too often.
    pub breakers_open: Vec<&'static str>,
    /// Instances waiting for a call.
    pub instances_idle: usize,
    /// Instances in a call.
    pub instances_busy: usize,
}

impl PluginHost {
    /// Starts the host and loads every plugin of the folder. A plugin that cannot be loaded is listed with its error and
    /// logged; it does not keep the others (or the server) from starting. Call it on a tokio runtime, after the metrics
    /// recorder is installed.
    pub async fn start(options: HostOptions) -> Result<PluginHost, LoadError> {
        metrics::describe();
        let dir = options.plugins_dir.clone();
        fs::create_dir_all(&dir).map_err(|error| LoadError::io(&dir, &error))?;
        let options = Arc::new(options);
        let loader = Arc::new(Loader::new(options.clone())?);
        let inner = Inner {
            options,
            loader,
            registry: ArcSwap::default(),
            changing: tokio::sync::Mutex::default(),
            slots: Mutex::default(),
        };
        let host = PluginHost { inner: Arc::new(inner) };
        for source in watcher::scan(&dir) {
            // The error stands in the list and in the log.
            let _ = host.inner.load(source).await;
        }
        tokio::spawn(sample(Arc::downgrade(&host.inner)));
        Ok(host)
    }

    /// Every plugin, running or not, by id.
    pub fn list(&self) -> Vec<PluginStatus> {
        let registry = self.inner.registry.load();
        let slots = self.inner.slots.lock();
        let status = |(id, slot): (&PluginId, &Slot)| {
            let running = registry.plugins().get(id).map(|plugin| running(plugin));
            PluginStatus {
                id: id.to_string(),
                active: running.is_some(),
                error: slot.error.as_ref().map(ToString::to_string),
                manifest: slot.source.manifest.clone(),
                running,
            }
        };
        slots.iter().map(status).collect()
    }

    /// Loads a plugin again from its files. The running version stays where the new one cannot be loaded.
    pub async fn reload(&self, id: &str) -> Result<PluginStatus, LoadError> {
        let source = self.inner.slots.lock().get(id).map(|slot| slot.source.clone());
        let source = match source {
            Some(source) => source,
            None => watcher::find(&self.inner.options.plugins_dir, id).ok_or_else(|| LoadError::NotFound(id.to_owned()))?,
        };
        let id = self.inner.clone().load_detached(source).await?;
        self.status(&id)
    }

    /// Copies a plugin's files into the plugins' folder and loads it. What cannot be loaded is not installed: the version
    /// that was there stays, on disk and running.
    pub async fn install(&self, path: &Path) -> Result<PluginStatus, LoadError> {
        let (inner, source) = (self.inner.clone(), Source::of(path)?);
        // In a task of its own: a caller who leaves must not leave half an installation.
        let installed = tokio::spawn(async move { inner.install(&source).await }).await;
        let id = installed.unwrap_or_else(|_| Err(LoadError::Host("installing was interrupted".into())))?;
        self.status(&id)
    }

    /// Stops calling a plugin and moves its files aside (to `.previous` in the plugins' folder). Calls in flight end.
    pub async fn remove(&self, id: &str) -> Result<(), LoadError> {
        let _changing = self.inner.changing.lock().await;
        let id = PluginId::from(id);
        let source = self
            .inner
            .slots
            .lock()
            .get(&id)
            .map(|slot| slot.source.clone())
            .ok_or_else(|| LoadError::NotFound(id.to_string()))?;
        self.inner.set_aside(&id, &source)?;
        self.inner.forget(&id);
        tracing::info!(plugin = id.as_str(), "plugin removed");
        Ok(())
    }

    /// What a load of these files would say. Nothing is loaded.
    pub async fn check(&self, path: &Path) -> Result<CheckReport, LoadError> {
        let source = Source::of(path)?;
        let loader = self.inner.loader.clone();
        let checked = tokio::task::spawn_blocking(move || loader.check(&source)).await;
        checked.unwrap_or_else(|_| Err(LoadError::Host("checking was interrupted".into())))
    }

    /// Loads what changes in the plugins' folder, until the host is dropped or the task aborted. Files are taken when they
    /// have stood still for one interval.
    pub fn watch(&self) -> JoinHandle<()> {
        tokio::spawn(watcher::watch(Arc::downgrade(&self.inner), self.inner.options.watch_interval))
    }

    fn status(&self, id: &PluginId) -> Result<PluginStatus, LoadError> {
        let found = self.list().into_iter().find(|status| status.id == id.as_str());
        found.ok_or_else(|| LoadError::NotFound(id.to_string()))
    }
}

/// What a load of these files would say, without a host: for the command line.
pub fn check(path: &Path, options: HostOptions) -> Result<CheckReport, LoadError> {
    let source = Source::of(path)?;
    Loader::new(Arc::new(options))?.check(&source)
}

impl Hooks for PluginHost {
    fn plan(&self) -> Arc<dyn Plan> {
        self.inner.registry.load_full()
    }
}

impl Inner {
    /// As [`Inner::load`], in a task of its own.
    pub(crate) async fn load_detached(self: Arc<Self>, source: Source) -> Result<PluginId, LoadError> {
        let loaded = tokio::spawn(async move { self.load(source).await }).await;
        loaded.unwrap_or_else(|_| Err(LoadError::Host("loading was interrupted".into())))
    }

    /// Loads a plugin and puts it in the place of its former version. On an error that version stays.
    async fn load(&self, source: Source) -> Result<PluginId, LoadError> {
        let _changing = self.changing.lock().await;
        self.load_alone(source).await
    }

    async fn load_alone(&self, source: Source) -> Result<PluginId, LoadError> {
        let loaded = self.loader.load(source.clone()).await;
        let published = loaded.and_then(|plugin| {
            self.same_files(&plugin, &source)?;
            self.publish(plugin)
        });
        let id = match &published {
            Ok(id) => id.clone(),
            Err(_) => self.id_of(&source),
        };
        metrics::loaded(id.as_str(), published.is_ok());
        self.note(&id, source, published.as_ref().err());
        published
    }

    /// Two folders must not fight over one id.
    fn same_files(&self, plugin: &Plugin, source: &Source) -> Result<(), LoadError> {
        match self.slots.lock().get(plugin.id()) {
            Some(slot) if slot.source != *source && slot.source.manifest.is_file() && self.registry.load().plugins().contains_key(plugin.id()) => {
                Err(LoadError::Conflict(format!(
                    "the id `{}` belongs to {} already",
                    plugin.id(),
                    slot.source.manifest.display()
                )))
            }
            _ => Ok(()),
        }
    }

    fn publish(&self, plugin: Plugin) -> Result<PluginId, LoadError> {
        let current = self.registry.load_full();
        let (id, plugin) = (plugin.id().clone(), Arc::new(plugin));
        let mut plugins = current.plugins().clone();
        let former = plugins.insert(id.clone(), plugin.clone());
        let registry = Registry::new(plugins).map_err(LoadError::Conflict)?;
        if let Some(former) = &former {
            former.announce(false);
        }
        plugin.announce(true);
        self.registry.store(Arc::new(registry));
        let sha256 = Hex::<16>::of(&plugin.digest[..8]);
        tracing::info!(
            plugin = id.as_str(),
            version = plugin.manifest.version,
            sha256 = sha256.as_str(),
            from_cache = plugin.from_cache,
            "plugin active"
        );
        Ok(id)
    }

    /// The plugin that these files belong to, also where they cannot be read.
    fn id_of(&self, source: &Source) -> PluginId {
        let known = self
            .slots
            .lock()
            .iter()
            .find(|(_, slot)| slot.source == *source)
            .map(|(id, _)| id.clone());
        known.unwrap_or_else(|| {
            let is_folder = source.manifest.file_name().is_some_and(|name| name == MANIFEST_NAME);
            let name = if is_folder {
                source.manifest.parent().and_then(Path::file_name)
            } else {
                source.manifest.file_stem()
            };
            PluginId::from(name.unwrap_or_default().to_string_lossy().into_owned())
        })
    }

    fn note(&self, id: &PluginId, source: Source, error: Option<&LoadError>) {
        let mut slots = self.slots.lock();
        match (error, slots.get_mut(id)) {
            (Some(LoadError::Conflict(text)), Some(slot)) if slot.source != source => {
                // The id's owner keeps its slot; the intruder is named in its own.
                let name = PluginId::from(format!("{id} ({})", source.manifest.display()));
                slots.insert(
                    name,
                    Slot {
                        source,
                        error: Some(LoadError::Conflict(text.clone())),
                    },
                );
            }
            _ => {
                _ = slots.insert(
                    id.clone(),
                    Slot {
                        source,
                        error: error.cloned(),
                    },
                )
            }
        }
        if let Some(error) = error {
            tracing::error!(plugin = id.as_str(), code = error.code(), %error, "plugin not loaded; a version that was running stays");
        }
        self.count(&slots);
    }

    fn count(&self, slots: &BTreeMap<PluginId, Slot>) {
        let failed = slots.values().filter(|slot| slot.error.is_some()).count();
        metrics::plugins(self.registry.load().plugins().len(), failed);
    }

    /// Takes a plugin out of the registry and the list.
    fn forget(&self, id: &PluginId) {
        let mut plugins = self.registry.load().plugins().clone();
        if let Some(plugin) = plugins.remove(id) {
            plugin.announce(false);
            let registry = Registry::new(plugins).expect("fewer plugins have no new conflicts");
            self.registry.store(Arc::new(registry));
        }
        let mut slots = self.slots.lock();
        slots.remove(id);
        self.count(&slots);
    }

    /// The watcher found the files gone.
    pub(crate) async fn gone(&self, source: &Source) {
        let _changing = self.changing.lock().await;
        let ids: Vec<_> = self
            .slots
            .lock()
            .iter()
            .filter(|(_, slot)| slot.source == *source)
            .map(|(id, _)| id.clone())
            .collect();
        for id in ids {
            self.forget(&id);
            tracing::info!(plugin = id.as_str(), "plugin removed with its files");
        }
    }

    async fn install(&self, source: &Source) -> Result<PluginId, LoadError> {
        let _changing = self.changing.lock().await;
        let manifest = read_manifest(&source.manifest)?;
        let id = &manifest.id;
        let dir = &self.options.plugins_dir;
        let (target, staging) = (dir.join(id.as_str()), dir.join(STAGING).join(id.as_str()));
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error: std::io::Error| LoadError::io(&path, &error)
        };
        let _ = fs::remove_dir_all(&staging);
        copy_plugin(source, &manifest.wasm, &staging).map_err(failed(&staging))?;
        // Tried before anything that works is touched.
        let tried = self
            .loader
            .load(Source {
                manifest: staging.join(MANIFEST_NAME),
            })
            .await;
        if let Err(error) = tried {
            let _ = fs::remove_dir_all(&staging);
            return Err(error);
        }
        let former = self.slots.lock().get(id).map(|slot| slot.source.clone());
        if let Some(former) = &former {
            self.set_aside(id, former)?;
        }
        fs::rename(&staging, &target).map_err(failed(&target))?;
        let loaded = self
            .load_alone(Source {
                manifest: target.join(MANIFEST_NAME),
            })
            .await;
        if loaded.is_err() {
            let _ = fs::remove_dir_all(&target);
            match former {
                Some(former) => {
                    fs::rename(dir.join(PREVIOUS).join(id.as_str()), &target).map_err(failed(&target))?;
                    // The former version never stopped; this only puts its files on record again.
                    let source = if former.manifest.is_file() {
                        former
                    } else {
                        Source {
                            manifest: target.join(MANIFEST_NAME),
                        }
                    };
                    self.note(id, source, None);
                }
                None => self.forget(id),
            }
        }
        loaded
    }

    /// Moves a plugin's files to `.previous`, in the place of what was there.
    fn set_aside(&self, id: &PluginId, source: &Source) -> Result<(), LoadError> {
        let previous = self.options.plugins_dir.join(PREVIOUS).join(id.as_str());
        let failed = |error: std::io::Error| LoadError::io(&previous, &error);
        let _ = fs::remove_dir_all(&previous);
        let is_folder = source.manifest.file_name().is_some_and(|name| name == MANIFEST_NAME);
        match source.manifest.parent().filter(|folder| is_folder && *folder != self.options.plugins_dir) {
            Some(folder) if folder.is_dir() => {
                fs::create_dir_all(previous.parent().unwrap_or(&previous)).map_err(failed)?;
                fs::rename(folder, &previous).map_err(failed)
            }
            Some(_) => Ok(()),
            None => {
                let wasm = read_manifest(&source.manifest).map(|manifest| manifest.wasm).ok();
                fs::create_dir_all(&previous).map_err(failed)?;
                if let Some(wasm) = wasm {
                    let name = Path::new(&wasm).file_name().unwrap_or_default();
                    let _ = fs::rename(source.manifest.with_file_name(&wasm), previous.join(name));
                }
                fs::rename(&source.manifest, previous.join(MANIFEST_NAME)).map_err(failed)
            }
        }
    }
}

/// The manifest and its code, nothing else; the code's folder inside the plugin's is kept.
fn copy_plugin(source: &Source, wasm: &str, target: &Path) -> std::io::Result<()> {
    let code = target.join(wasm);
    if wasm.split('/').count() > INSTALL_FILES_MAX {
        return Err(std::io::Error::other("the path of the code has too many parts"));
    }
    fs::create_dir_all(code.parent().unwrap_or(target))?;
    fs::copy(source.manifest.with_file_name(wasm), code)?;
    fs::copy(&source.manifest, target.join(MANIFEST_NAME))?;
    Ok(())
}

fn running(plugin: &Plugin) -> RunningVersion {
    let (instances_idle, instances_busy) = plugin.pool.instances();
    let manifest = &plugin.manifest;
    let names = |hooks: &mut dyn Iterator<Item = &Hook>| hooks.map(|hook| hook.as_str()).collect();
    RunningVersion {
        version: manifest.version.clone(),
        description: manifest.description.clone(),
        api: manifest.api.clone(),
        sha256: Hex::<64>::of(&plugin.digest).to_string(),
        from_cache: plugin.from_cache,
        loaded_at_ms: plugin.loaded_at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
        hooks: names(&mut plugin.exports.iter()),
        grants: plugin.profile.grants.keys().map(|capability| capability.as_str()).collect(),
        claims: manifest.claims.clone(),
        commands: manifest.commands.clone(),
        routes: manifest.routes.iter().map(|route| format!("{} {}", route.method, route.path)).collect(),
        namespaces: manifest.namespaces.clone(),
        breakers_open: names(&mut plugin.exports.iter().filter(|hook| plugin.breaker(**hook).is_open())),
        instances_idle,
        instances_busy,
    }
}

/// Sets the gauges that nobody changes at the right moment, until the host is gone.
async fn sample(host: Weak<Inner>) {
    loop {
        let Some(inner) = host.upgrade() else { return };
        for plugin in inner.registry.load().plugins().values() {
            let (idle, busy) = plugin.pool.instances();
            plugin.profile.meters.idle.set(idle as f64);
            plugin.profile.meters.busy.set(busy as f64);
        }
        drop(inner);
        tokio::time::sleep(SAMPLE_INTERVAL).await;
    }
}
