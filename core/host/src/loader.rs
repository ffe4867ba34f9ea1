//! From files to a running plugin, or to a sentence that says why not.
//!
//! Reading, judging and compiling happen on a blocking thread; the trial start runs as a call does, with budgets.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use haggle_model::Hex;
use serde::Serialize;
use sha2::{Digest, Sha256};
use wasmtime::{
    Engine,
    component::{Component, InstancePre, Linker},
};

use crate::{
    bindings::Indices,
    cache::Cache,
    capabilities,
    component::{Inspected, inspect},
    grants::{Capability, Review},
    machine::{self, Clock},
    manifest::{MANIFEST_BYTES_MAX, Manifest},
    metrics::{self, Meters},
    options::HostOptions,
    plugin::Plugin,
    pool::Pool,
    state::{LogBudget, Profile, State},
};

/// Why a plugin is not (or not in its newest version) there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// A file or folder cannot be read or written.
    #[error("{path}: {message}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        message: String,
    },
    /// `plugin.toml` breaks a rule.
    #[error("{path}: {message}")]
    Manifest {
        /// Which file.
        path: PathBuf,
        /// What rule.
        message: String,
    },
    /// The code is not what it must be: format, size, digest, contract version, imports, exports, types.
    #[error("{path}: {message}")]
    Code {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Something it wants belongs to another plugin.
    #[error("{0}")]
    Conflict(String),
    /// It did not start: a fault or an error in `lifecycle.init`.
    #[error("trial start failed: {0}")]
    Start(String),
    /// There is no such plugin.
    #[error("there is no plugin `{0}`")]
    NotFound(String),
    /// The host itself cannot run.
    #[error("plugin host: {0}")]
    Host(String),
}

impl LoadError {
    /// A stable word for each kind.
    pub fn code(&self) -> &'static str {
        match self {
            LoadError::Io { .. } => "io",
            LoadError::Manifest { .. } => "manifest",
            LoadError::Code { .. } => "code",
            LoadError::Conflict(_) => "conflict",
            LoadError::Start(_) => "start",
            LoadError::NotFound(_) => "not_found",
            LoadError::Host(_) => "host",
        }
    }

    pub(crate) fn io(path: &Path, error: &io::Error) -> LoadError {
        LoadError::Io {
            path: path.to_owned(),
            message: error.to_string(),
        }
    }

    fn code_of(path: &Path, message: impl Into<String>) -> LoadError {
        LoadError::Code {
            path: path.to_owned(),
            message: message.into(),
        }
    }
}

/// Where a plugin's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) manifest: PathBuf,
}

impl Source {
    /// The plugin in a folder, described by a manifest, or made of a code file with its manifest beside it.
    pub(crate) fn of(path: &Path) -> Result<Source, LoadError> {
        let candidates = if path.is_dir() {
            vec![path.join(MANIFEST_NAME)]
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            vec![path.to_owned()]
        } else {
            vec![path.with_extension("toml"), path.with_file_name(MANIFEST_NAME)]
        };
        let found = candidates.iter().find(|candidate| candidate.is_file());
        let missing = || LoadError::Io {
            path: candidates[0].clone(),
            message: "there is no manifest here".into(),
        };
        found.map(|manifest| Source { manifest: manifest.clone() }).ok_or_else(missing)
    }
}

/// The manifest's name in a plugin's folder.
pub(crate) const MANIFEST_NAME: &str = "plugin.toml";

/// Files as read, nothing judged yet but the manifest.
pub(crate) struct Package {
    pub(crate) manifest: Manifest,
    pub(crate) wasm_path: PathBuf,
    pub(crate) digest: [u8; 32],
    code: Vec<u8>,
}

/// Reads the manifest and the code it names.
pub(crate) fn read(source: &Source, code_bytes_max: usize) -> Result<Package, LoadError> {
    let manifest = read_manifest(&source.manifest)?;
    let wasm_path = source.manifest.with_file_name(&manifest.wasm);
    let code = read_code(&wasm_path, code_bytes_max)?;
    let digest: [u8; 32] = Sha256::digest(&code).into();
    if manifest.sha256.is_some_and(|expected| expected != digest) {
        return Err(LoadError::code_of(
            &wasm_path,
            format!("its SHA-256 is {}, the manifest says otherwise", Hex::<64>::of(&digest)),
        ));
    }
    Ok(Package {
        manifest,
        wasm_path,
        digest,
        code,
    })
}

pub(crate) fn read_manifest(path: &Path) -> Result<Manifest, LoadError> {
    let bytes = read_bounded(path, MANIFEST_BYTES_MAX)?;
    let manifest = String::from_utf8(bytes)
        .map_err(|_| "it is not UTF-8".to_owned())
        .and_then(|text| Manifest::parse(&text).map_err(|error| error.0));
    manifest.map_err(|message| LoadError::Manifest {
        path: path.to_owned(),
        message,
    })
}

fn read_code(path: &Path, max: usize) -> Result<Vec<u8>, LoadError> {
    read_bounded(path, max)
}

fn read_bounded(path: &Path, max: usize) -> Result<Vec<u8>, LoadError> {
    use std::io::Read;
    let file = fs::File::open(path).map_err(|error| LoadError::io(path, &error))?;
    let mut bytes = Vec::new();
    file.take(max as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| LoadError::io(path, &error))?;
    if bytes.len() > max {
        return Err(LoadError::code_of(path, format!("it has more than {max} bytes")));
    }
    Ok(bytes)
}

pub(crate) struct Loader {
    pub(crate) engine: Engine,
    pub(crate) options: Arc<HostOptions>,
    clock: Clock,
    cache: Option<Cache>,
}

impl Loader {
    pub(crate) fn new(options: Arc<HostOptions>) -> Result<Loader, LoadError> {
        let (engine, clock) = machine::start(&options.limits, options.dev).map_err(|error| LoadError::Host(format!("{error:#}")))?;
        let cache = match &options.cache_dir {
            Some(dir) => Some(Cache::open(dir).map_err(|error| LoadError::io(dir, &error))?),
            None => None,
        };
        Ok(Loader {
            engine,
            options,
            clock,
            cache,
        })
    }

    /// The whole way, but for taking its place among the others.
    pub(crate) async fn load(self: &Arc<Self>, source: Source) -> Result<Plugin, LoadError> {
        let loader = self.clone();
        let prepared = tokio::task::spawn_blocking(move || loader.prepare(&source)).await;
        let prepared = prepared.unwrap_or_else(|_| Err(LoadError::Host("loading was interrupted".into())))?;
        let since = Instant::now();
        let pool = Arc::new(prepared.pool);
        // The trial runs in its own task: a component call that has begun is never dropped half way.
        let trial = tokio::spawn({
            let (pool, limit) = (pool.clone(), self.init_max());
            async move { pool.instantiate(Instant::now() + limit, limit).await }
        });
        let warm = trial.await.unwrap_or_else(|_| Err(interrupted()));
        let warm = warm.map_err(|error| LoadError::Start(format!("{}: {}", error.kind.as_str(), error.message)))?;
        pool.adopt(warm);
        metrics::load_stage("start", since.elapsed().as_secs_f64());
        Ok(Plugin::new(prepared.manifest, prepared.digest, pool, prepared.from_cache))
    }

    fn prepare(&self, source: &Source) -> Result<Prepared, LoadError> {
        let mut clock = Stages::start();
        let package = read(source, self.options.limits.code_bytes_max)?;
        clock.ended("read");
        let Package {
            manifest,
            wasm_path,
            digest,
            code,
        } = package;
        let inspected = inspect(code).map_err(|text| LoadError::code_of(&wasm_path, text))?;
        let review = self.review(&manifest, &inspected);
        let problems: Vec<_> = problems(&manifest, &inspected, &review);
        if !problems.is_empty() {
            return Err(LoadError::code_of(&wasm_path, problems.join("; ")));
        }
        clock.ended("inspect");
        let (component, from_cache) = self
            .compile(&digest, &inspected.component)
            .map_err(|text| LoadError::code_of(&wasm_path, text))?;
        clock.ended("compile");
        let pre = self.link(&component, &review).map_err(|text| LoadError::code_of(&wasm_path, text))?;
        let indices = Indices::probe(&pre);
        let pool = self
            .pool(&manifest, &review, &inspected, pre, indices)
            .map_err(|message| LoadError::Manifest {
                path: source.manifest.clone(),
                message,
            })?;
        clock.ended("link");
        Ok(Prepared {
            manifest,
            digest,
            pool,
            from_cache,
        })
    }

    pub(crate) fn review(&self, manifest: &Manifest, inspected: &Inspected) -> Review {
        Review::of(&inspected.imports, &manifest.asked(), self.options.policy.of(manifest.id.as_str()))
    }

    fn compile(&self, digest: &[u8; 32], component: &[u8]) -> Result<(Component, bool), String> {
        if let Some(component) = self.cache.as_ref().and_then(|cache| cache.get(&self.engine, digest)) {
            metrics::compiled(true);
            return Ok((component, true));
        }
        let component = Component::from_binary(&self.engine, component).map_err(|error| format!("it does not compile: {error:#}"))?;
        metrics::compiled(false);
        if let Some(cache) = &self.cache {
            cache.put(&self.engine, digest, &component);
        }
        Ok((component, false))
    }

    fn link(&self, component: &Component, review: &Review) -> Result<InstancePre<State>, String> {
        let mut linker = Linker::new(&self.engine);
        let linked = capabilities::link(&mut linker, review.granted.iter().copied()).and_then(|()| linker.instantiate_pre(component));
        linked.map_err(|error| format!("its imports do not fit this host; build it with this version's SDK: {error:#}"))
    }

    fn pool(&self, manifest: &Manifest, review: &Review, inspected: &Inspected, pre: InstancePre<State>, indices: Indices) -> Result<Pool, String> {
        let nothing = serde_json::Map::new();
        let over = self.options.config.get(manifest.id.as_str()).unwrap_or(&nothing);
        let config = manifest.merged_config(over, true).map_err(|error| error.0)?;
        let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let host = self.options.limits.clone();
        let profile = Profile {
            id: manifest.id.clone(),
            limits: host.cap(&manifest.limits),
            grants: manifest
                .grants
                .iter()
                .filter(|(capability, _)| review.granted.contains(capability))
                .map(|(c, grant)| (*c, grant.clone()))
                .collect(),
            config: config.iter().map(|(key, value)| (key.clone(), text(value))).collect(),
            meters: Meters::new(&manifest.id, &inspected.exports, review.granted.iter().copied(), host.custom_metrics_max),
            log_budget: LogBudget::default(),
            clock: self.clock.clone(),
            host,
        };
        Ok(Pool::new(Arc::new(profile), pre, indices, serde_json::Value::Object(config).to_string()))
    }

    fn init_max(&self) -> Duration {
        Duration::from_millis(u64::from(self.options.limits.init_ms_max))
    }

    /// What a load does with code that has no problems, up to an instance that is not started.
    fn try_types(&self, manifest: &Manifest, digest: &[u8; 32], inspected: &Inspected, review: &Review) -> Result<(), String> {
        let (component, _) = self.compile(digest, &inspected.component)?;
        let pre = self.link(&component, review)?;
        let indices = Indices::probe(&pre);
        let pool = self.pool(manifest, review, inspected, pre, indices)?;
        // In a thread of its own, since the caller's may belong to a runtime.
        let limit = self.init_max();
        let tried = std::thread::scope(|scope| {
            let trial = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| error.to_string())?;
                let tried = runtime.block_on(pool.try_types(Instant::now() + limit, limit));
                tried.map_err(|error| format!("no instance can be made: {}", error.message))
            });
            trial.join()
        });
        tried.unwrap_or_else(|_| Err("the trial was interrupted".to_owned()))
    }

    /// Everything that a load would say, without loading.
    pub(crate) fn check(&self, source: &Source) -> Result<CheckReport, LoadError> {
        let package = read(source, self.options.limits.code_bytes_max)?;
        let Package {
            manifest,
            wasm_path,
            digest,
            code,
        } = package;
        let code_bytes = code.len();
        let inspected = inspect(code).map_err(|text| LoadError::code_of(&wasm_path, text))?;
        let review = self.review(&manifest, &inspected);
        let mut problems = problems(&manifest, &inspected, &review);
        if problems.is_empty() {
            problems.extend(self.try_types(&manifest, &digest, &inspected, &review).err());
        }
        Ok(CheckReport {
            id: manifest.id.to_string(),
            version: manifest.version.clone(),
            api: inspected.api.clone().unwrap_or_else(|| manifest.api.clone()),
            wasm: wasm_path,
            code_bytes,
            sha256: Hex::<64>::of(&digest).to_string(),
            format: if inspected.was_module { "core module" } else { "component" },
            hooks: inspected.exports.iter().map(|hook| hook.as_str()).collect(),
            imports: inspected.imports.iter().map(|capability| capability.as_str()).collect(),
            missing_grants: review.not_asked.iter().map(|capability| capability.as_str()).collect(),
            refused_grants: review.refused.iter().map(|capability| capability.as_str()).collect(),
            claims: manifest.claims.clone(),
            commands: manifest.commands.clone(),
            routes: manifest.routes.iter().map(|route| format!("{} {}", route.method, route.path)).collect(),
            namespaces: manifest.namespaces.clone(),
            problems,
        })
    }
}

fn interrupted() -> crate::fault::CallError {
    crate::fault::CallError::new(crate::fault::Kind::Gone, "the server is shutting down")
}

/// A plugin before its trial start.
struct Prepared {
    manifest: Manifest,
    digest: [u8; 32],
    pool: Pool,
    from_cache: bool,
}

fn problems(manifest: &Manifest, inspected: &Inspected, review: &Review) -> Vec<String> {
    let mut problems = inspected.problems.clone();
    if !problems.is_empty() {
        return problems; // what follows from a wrong border helps nobody
    }
    problems.extend(review.problems());
    let exported = |name: &str| inspected.exports.iter().any(|hook| hook.as_str() == name);
    for name in manifest.hooks_named().filter(|name| !exported(name)) {
        problems.push(format!("plugin.toml has settings for the hook {name}, which the code does not export"));
    }
    let needs = [
        ("command", !manifest.commands.is_empty(), "commands"),
        ("http", !manifest.routes.is_empty(), "routes"),
        ("timer", !manifest.crons.is_empty(), "crons"),
        ("namespace", !manifest.namespaces.is_empty(), "namespaces"),
    ];
    for (hook, needed, what) in needs {
        if needed && !exported(hook) {
            problems.push(format!("plugin.toml names {what}, but the code does not export the hook {hook}"));
        }
    }
    if exported("namespace") && manifest.namespaces.is_empty() {
        problems.push("the code exports the hook namespace, but plugin.toml names none: add [namespaces] names = [\"/…\"]".into());
    }
    if review.granted.contains(&Capability::Client) && manifest.limits.max_instances < 2 {
        let why = "a handler that acts as its user may wait for a turn that waits for this plugin";
        problems.push(format!("limits.max_instances = 1 with the capability client: set 2 or more, since {why}"));
    }
    if !manifest.claims.is_empty() && !exported("before-message") {
        problems.push("plugin.toml claims kinds of message, but the code does not export the hook before-message".into());
    }
    problems
}

/// Times the steps of one load.
struct Stages(Instant);

impl Stages {
    fn start() -> Stages {
        Stages(Instant::now())
    }

    fn ended(&mut self, stage: &'static str) {
        metrics::load_stage(stage, self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}

/// What a plugin's files are, and everything that keeps them from being loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// From the manifest.
    pub id: String,
    /// From the manifest.
    pub version: String,
    /// The contract version of the code.
    pub api: String,
    /// The code.
    pub wasm: PathBuf,
    /// Its size.
    pub code_bytes: usize,
    /// Its digest, in hex.
    pub sha256: String,
    /// `component` or `core module`.
    pub format: &'static str,
    /// Exported hooks.
    pub hooks: Vec<&'static str>,
    /// Imported capabilities.
    pub imports: Vec<&'static str>,
    /// Imported, but not asked for in `[grants]`.
    pub missing_grants: Vec<&'static str>,
    /// Imported and asked for, but not allowed by the operator.
    pub refused_grants: Vec<&'static str>,
    /// Kinds of message.
    pub claims: Vec<String>,
    /// Commands of clients.
    pub commands: Vec<String>,
    /// Method and path.
    pub routes: Vec<String>,
    /// Socket.IO namespaces that it can own.
    pub namespaces: Vec<String>,
    /// Why it cannot be loaded; empty when it can.
    pub problems: Vec<String>,
}

impl CheckReport {
    /// It can be loaded (an instance was made; its `init` was not tried).
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }
}

impl std::fmt::Display for CheckReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |names: &[&str]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let owned = |names: &[String]| list(&names.iter().map(String::as_str).collect::<Vec<_>>());
        writeln!(f, "plugin    {} {}", self.id, self.version)?;
        writeln!(f, "code      {} ({}, {} bytes)", self.wasm.display(), self.format, self.code_bytes)?;
        writeln!(f, "sha256    {}", self.sha256)?;
        writeln!(f, "contract  haggle:plugin {}", self.api)?;
        writeln!(f, "hooks     {}", list(&self.hooks))?;
        writeln!(f, "imports   {}", list(&self.imports))?;
        writeln!(f, "claims    {}", owned(&self.claims))?;
        writeln!(f, "commands  {}", owned(&self.commands))?;
        writeln!(f, "routes    {}", owned(&self.routes))?;
        writeln!(f, "spaces    {}", owned(&self.namespaces))?;
        for problem in &self.problems {
            writeln!(f, "problem   {problem}")?;
        }
        write!(f, "{}", if self.is_ok() { "ok" } else { "cannot be loaded" })
    }
}
