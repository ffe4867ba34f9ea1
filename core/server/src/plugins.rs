//! The plugin host as this server runs it: options from the settings, packages of the admin API, lists for operators.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use haggle_engine::ports::Hooks;
use haggle_host::{Capability, HostLimits, HostOptions, LoadError, Manifest, PluginHost, PluginStatus, Policy};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{config::Settings, failure::Failure};

/// The plugins of a running server.
#[derive(Clone)]
pub struct Plugins {
    host: PluginHost,
}

impl Plugins {
    /// Starts the host; a plugin that does not load keeps nobody from starting.
    pub async fn start(settings: &Settings) -> Result<Plugins, Failure> {
        let host = PluginHost::start(options(settings)?)
            .await
            .map_err(|error| Failure::failed(error.to_string()).hint("set server.plugins_dir (--plugins DIR)"))?;
        if settings.plugins.watch {
            // The task ends with the host.
            drop(host.watch());
        }
        Ok(Plugins { host })
    }

    /// As the engine takes them.
    pub fn hooks(&self) -> Arc<dyn Hooks> {
        Arc::new(self.host.clone())
    }

    /// Every plugin, for operators.
    pub fn list(&self) -> Vec<Value> {
        self.host.list().iter().map(shown).collect()
    }

    /// How many run and which do not load.
    pub fn summary(&self) -> Value {
        let list = self.host.list();
        let errors: BTreeMap<&str, &str> = list
            .iter()
            .filter_map(|plugin| Some((plugin.id.as_str(), plugin.error.as_deref()?)))
            .collect();
        json!({ "active": list.iter().filter(|plugin| plugin.active).count(), "errors": errors })
    }

    /// Loads a plugin again from its files.
    pub async fn reload(&self, id: &str) -> Result<(), LoadError> {
        self.host.reload(id).await.map(drop)
    }

    /// Puts a package into the plugins' folder and loads it.
    pub async fn install(&self, package: Package) -> Result<(), LoadError> {
        let failed = |error: std::io::Error| LoadError::Host(format!("unpacking: {error}"));
        let dir = tempfile::tempdir().map_err(failed)?;
        package.write(dir.path()).map_err(failed)?;
        self.host.install(dir.path()).await.map(drop)
    }

    /// Takes a plugin out of service and moves its files aside.
    pub async fn remove(&self, id: &str) -> Result<(), LoadError> {
        self.host.remove(id).await
    }
}

fn shown(plugin: &PluginStatus) -> Value {
    let mut shown = json!({ "id": plugin.id, "state": if plugin.active { "active" } else { "failed" }, "error": plugin.error });
    if let Some(running) = &plugin.running {
        let running = serde_json::to_value(running).expect("a list of names and numbers is JSON");
        shown
            .as_object_mut()
            .expect("made above")
            .extend(running.as_object().cloned().unwrap_or_default());
    }
    shown
}

/// What a load of these files would say; fails when it would fail.
pub fn check(path: &Path, settings: &Settings) -> Result<String, Failure> {
    let report = haggle_host::check(path, options(settings)?).map_err(|error| Failure::failed(error.to_string()))?;
    if report.is_ok() {
        Ok(report.to_string())
    } else {
        Err(Failure::failed(report.to_string()).hint("docs/WRITING-PLUGINS.md explains manifests and grants"))
    }
}

/// Whether every namespace of `socketio.dialects` has its plugin in the plugins' folder; the first mistake is named.
pub fn check_dialects(settings: &Settings) -> Result<(), Failure> {
    if settings.socketio.dialects.is_empty() {
        return Ok(());
    }
    let dir = settings.plugins_dir();
    let manifests = manifests(&dir);
    for (index, dialect) in settings.socketio.dialects.iter().enumerate() {
        let (key, plugin, namespace) = (format!("socketio.dialects[{index}]"), &dialect.plugin, &dialect.namespace);
        let Some(manifest) = manifests.iter().find(|manifest| manifest.id.as_str() == plugin) else {
            let text = format!("{key}.plugin = \"{plugin}\": there is no such plugin in {}", dir.display());
            return Err(Failure::usage(text).hint("haggle plugin install FOLDER, or mend the name"));
        };
        if !manifest.offers_namespace(namespace) {
            let offered = match manifest.namespaces.as_slice() {
                [] => "none".to_owned(),
                names => names.join(", "),
            };
            let text = format!("{key}.namespace = \"{namespace}\": the plugin {plugin} does not offer it (it offers {offered})");
            return Err(Failure::usage(text).hint("[namespaces] names = [\"/…\"] in its plugin.toml, or another namespace here"));
        }
    }
    Ok(())
}

/// Whether every plugin of `http.routes` is in the plugins' folder and has routes; the first mistake is named.
pub fn check_routes(settings: &Settings) -> Result<(), Failure> {
    if settings.http.routes.is_empty() {
        return Ok(());
    }
    let dir = settings.plugins_dir();
    let manifests = manifests(&dir);
    for (index, bound) in settings.http.routes.iter().enumerate() {
        let (key, plugin) = (format!("http.routes[{index}]"), &bound.plugin);
        let Some(manifest) = manifests.iter().find(|manifest| manifest.id.as_str() == plugin) else {
            let text = format!("{key}.plugin = \"{plugin}\": there is no such plugin in {}", dir.display());
            return Err(Failure::usage(text).hint("haggle plugin install FOLDER, or mend the name"));
        };
        if manifest.routes.is_empty() {
            let text = format!("{key}.plugin = \"{plugin}\": its manifest declares no routes");
            return Err(Failure::usage(text).hint("[[routes]] in its plugin.toml, or take the table away here"));
        }
    }
    Ok(())
}

/// The manifests in the plugins' folder that can be read.
fn manifests(dir: &Path) -> Vec<Manifest> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let file = |path: std::path::PathBuf| if path.is_dir() { path.join("plugin.toml") } else { path };
    let files = entries
        .flatten()
        .map(|entry| file(entry.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "toml"));
    files
        .filter_map(|path| Manifest::parse(&std::fs::read_to_string(path).ok()?).ok())
        .collect()
}

/// `[plugins]` as the host takes it.
fn options(settings: &Settings) -> Result<HostOptions, Failure> {
    let plugins = &settings.plugins;
    let mut options = HostOptions::new(settings.plugins_dir());
    options.cache_dir = Some(settings.server.data_dir.join("cache"));
    options.policy = policy(settings)?;
    options.limits = HostLimits {
        code_bytes_max: plugins.code_bytes_max,
        instances_max: plugins.instances_max,
        memory_mb_max: plugins.memory_mb_max,
        cpu_ms_max: plugins.cpu_ms_max,
        wall_ms_max: plugins.wall_ms_max,
        init_ms_max: plugins.init_ms_max,
        table_elements_max: plugins.table_elements_max,
        custom_metrics_max: plugins.custom_metrics_max,
        log_lines_per_second_max: plugins.log_lines_per_second_max,
        log_line_bytes_max: plugins.log_line_bytes_max,
        pooling: plugins.pooling,
    };
    options.config = plugins
        .config
        .iter()
        .map(|(id, values)| (id.clone(), values.iter().map(json_pair).collect()))
        .collect();
    options.dev = plugins.watch;
    Ok(options)
}

fn json_pair((key, value): (&String, &toml::Value)) -> (String, Value) {
    (key.clone(), serde_json::to_value(value).unwrap_or_default())
}

fn policy(settings: &Settings) -> Result<Policy, Failure> {
    let by_plugin = settings.plugins.grants_by_plugin.iter();
    Ok(Policy {
        allow: capabilities("plugins.grants", &settings.plugins.grants)?,
        plugins: by_plugin
            .map(|(id, names)| Ok((id.clone(), capabilities(&format!("plugins.grants_by_plugin.{id}"), names)?)))
            .collect::<Result<_, Failure>>()?,
    })
}

fn capabilities(key: &str, names: &[String]) -> Result<BTreeSet<Capability>, Failure> {
    if names.iter().any(|name| name == "*") {
        return Ok(Capability::ALL.into());
    }
    names
        .iter()
        .map(|name| {
            name.parse()
                .map_err(|error| Failure::usage(format!("{key}: {error}")).hint(format!("{key} = [\"*\"] grants what manifests ask for")))
        })
        .collect()
}

/// A plugin on its way to a server: its manifest and its code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// From the manifest.
    pub id: String,
    manifest: String,
    /// Where the manifest wants the code.
    wasm_path: String,
    wasm: Vec<u8>,
}

/// A package as JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent {
    manifest: String,
    /// Base64.
    wasm: String,
}

impl Package {
    /// Reads a plugin's folder.
    pub fn read(folder: &Path) -> Result<Package, Failure> {
        let read = |path: &Path| {
            std::fs::read(path)
                .map_err(|error| Failure::failed(format!("{}: {error}", path.display())).hint("name the folder that holds plugin.toml"))
        };
        let manifest = String::from_utf8_lossy(&read(&folder.join("plugin.toml"))?).into_owned();
        let mut package = Package::new(manifest, Vec::new()).map_err(Failure::failed)?;
        package.wasm = read(&folder.join(&package.wasm_path))?;
        Ok(package)
    }

    /// The text names the rule that is broken.
    fn new(manifest: String, wasm: Vec<u8>) -> Result<Package, String> {
        let parsed = Manifest::parse(&manifest).map_err(|error| format!("plugin.toml: {error}"))?;
        Ok(Package {
            id: parsed.id.to_string(),
            wasm_path: parsed.wasm,
            manifest,
            wasm,
        })
    }

    /// As the body of an installation.
    pub fn to_json(&self) -> Vec<u8> {
        let sent = Sent {
            manifest: self.manifest.clone(),
            wasm: STANDARD.encode(&self.wasm),
        };
        serde_json::to_vec(&sent).expect("two strings are JSON")
    }

    /// From the body of an installation.
    pub fn from_json(body: &[u8]) -> Result<Package, String> {
        let sent: Sent = serde_json::from_slice(body).map_err(|error| format!("the body is not {{\"manifest\", \"wasm\"}}: {error}"))?;
        let wasm = STANDARD.decode(sent.wasm).map_err(|error| format!("wasm is no base64: {error}"))?;
        Package::new(sent.manifest, wasm)
    }

    /// The manifest keeps the code's path below its folder.
    fn write(&self, dir: &Path) -> std::io::Result<()> {
        let code = dir.join(&self.wasm_path);
        std::fs::create_dir_all(code.parent().unwrap_or(dir))?;
        std::fs::write(code, &self.wasm)?;
        std::fs::write(dir.join("plugin.toml"), &self.manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "id = \"offers\"\nversion = \"1.2.0\"\napi = \"0.1\"\nwasm = \"code/offers.wasm\"\n";

    #[test]
    fn a_package_arrives_as_it_was_sent() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let package = Package::new(MANIFEST.into(), vec![0, 97, 115, 109]).expect("valid");
        package.write(dir.path()).expect("written");
        let read = Package::read(dir.path()).expect("read");
        assert_eq!(read, package);
        assert_eq!(Package::from_json(&read.to_json()).expect("sent"), package);
        assert_eq!(package.id, "offers");
    }

    #[test]
    fn a_package_cannot_leave_its_folder() {
        let manifest = MANIFEST.replace("code/offers.wasm", "../../offers.wasm");
        assert!(Package::new(manifest, Vec::new()).expect_err("refused").contains("wasm"));
    }

    #[test]
    fn grants_are_names_of_capabilities() {
        let mut settings = Settings::default();
        assert_eq!(policy(&settings).expect("valid"), Policy::default());
        settings.plugins.grants = vec!["log".into()];
        settings.plugins.grants_by_plugin = [("offers".to_owned(), vec!["kv".to_owned()])].into();
        let policy_set = policy(&settings).expect("valid");
        assert_eq!(
            (policy_set.of("other"), policy_set.of("offers")),
            (&[Capability::Log].into(), &[Capability::Kv].into())
        );
        settings.plugins.grants = vec!["files".into()];
        assert!(
            policy(&settings)
                .expect_err("unknown")
                .message
                .starts_with("plugins.grants: there is no capability `files`")
        );
    }

    #[test]
    fn namespaces_need_a_plugin_that_offers_them() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut settings = Settings::default();
        settings.server.plugins_dir = dir.path().to_owned();
        assert!(check_dialects(&settings).is_ok(), "without dialects there is nothing to check");
        settings.socketio.dialects = vec![crate::config::Dialect {
            namespace: "/shop".into(),
            plugin: "shop".into(),
            ..Default::default()
        }];
        let missing = check_dialects(&settings).expect_err("no such plugin").message;
        assert!(missing.starts_with("socketio.dialects[0].plugin = \"shop\""), "{missing}");
        let manifest = |names: &str| {
            let text = format!("id = \"shop\"\nversion = \"1.0.0\"\napi = \"0.1\"\n[namespaces]\nnames = [{names}]\n");
            std::fs::create_dir_all(dir.path().join("shop")).expect("a folder");
            std::fs::write(dir.path().join("shop/plugin.toml"), text).expect("written");
        };
        manifest("\"/other\"");
        let other = check_dialects(&settings).expect_err("another namespace").message;
        assert!(other.contains("does not offer it (it offers /other)"), "{other}");
        manifest("\"*\"");
        assert!(check_dialects(&settings).is_ok());
    }

    #[test]
    fn bound_routes_need_a_plugin_that_has_some() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut settings = Settings::default();
        settings.server.plugins_dir = dir.path().to_owned();
        assert!(check_routes(&settings).is_ok(), "without tables there is nothing to check");
        settings.http.routes = vec![crate::config::BoundRoutes {
            plugin: "shop".into(),
            port: Some(5000),
            ..Default::default()
        }];
        let missing = check_routes(&settings).expect_err("no such plugin").message;
        assert!(missing.starts_with("http.routes[0].plugin = \"shop\""), "{missing}");
        let manifest = |routes: &str| {
            let text = format!("id = \"shop\"\nversion = \"1.0.0\"\napi = \"0.1\"\n{routes}");
            std::fs::create_dir_all(dir.path().join("shop")).expect("a folder");
            std::fs::write(dir.path().join("shop/plugin.toml"), text).expect("written");
        };
        manifest("");
        let none = check_routes(&settings).expect_err("no routes").message;
        assert!(none.ends_with("declares no routes"), "{none}");
        manifest("[[routes]]\nmethod = \"GET\"\npath = \"/api/messages/{id}\"\naccess = \"user\"\nbound = true\n");
        assert!(check_routes(&settings).is_ok());
    }

    /// A plugin's route is refused where the core has one: the list must be the router's.
    #[test]
    fn the_core_routes_are_those_of_the_router() {
        let description = serde_json::from_str::<serde_json::Value>(&haggle_gateway::rest::openapi()).expect("JSON");
        let mut documented: Vec<&str> = description["paths"].as_object().expect("paths").keys().map(String::as_str).collect();
        let mut listed = haggle_host::manifest::CORE_ROUTES.to_vec();
        documented.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, documented);
    }

    #[test]
    fn limits_are_those_of_the_host() {
        assert_eq!(options(&Settings::default()).expect("valid").limits, HostLimits::default());
    }
}
