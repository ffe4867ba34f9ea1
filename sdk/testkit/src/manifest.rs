//! What the bridge needs of a `plugin.toml`. The server's own reader, which checks everything, is the host's.

use std::collections::BTreeMap;

use haggle_engine::ports::{Facts, Hook, Route, RouteAccess};
use haggle_model::PluginId;
use serde::Deserialize;
use serde_json::{Map, Value};

/// The parts of a manifest that a native plugin is run by.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Manifest {
    id: String,
    pub version: String,
    #[serde(default)]
    pub claims: Vec<String>,
    #[serde(default)]
    hooks: BTreeMap<String, Settings>,
    #[serde(default)]
    routes: Vec<WrittenRoute>,
    #[serde(default)]
    grants: BTreeMap<String, toml::Value>,
    #[serde(default)]
    pub config: Map<String, Value>,
}

/// A route, as far as a request is told by it.
#[derive(Clone, Debug, Deserialize)]
struct WrittenRoute {
    method: String,
    path: String,
}

/// Order, filters and policy of one hook.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Settings {
    priority: Option<i32>,
    on_failure: Option<String>,
    pub from_start: bool,
    kinds: Vec<String>,
    conversations: Vec<String>,
    dialects: Vec<String>,
    pub names: Vec<String>,
}

impl Manifest {
    /// # Panics
    /// Where the text is no manifest: the test cannot go on.
    pub fn parse(text: &str) -> Manifest {
        toml::from_str(text).unwrap_or_else(|error| panic!("plugin.toml cannot be read: {error}"))
    }

    pub fn id(&self) -> PluginId {
        self.id.as_str().into()
    }

    /// The routes, open to everybody: a test says who asks.
    pub fn routes(&self) -> Vec<Route> {
        let path = |written: &str| match written.starts_with('/') {
            true => written.to_owned(),
            false => format!("/plugins/{}/{written}", self.id),
        };
        let route = |written: &WrittenRoute| Route {
            plugin: self.id(),
            method: written.method.clone(),
            path: path(&written.path),
            access: RouteAccess::Nobody,
            bound: false,
        };
        self.routes.iter().map(route).collect()
    }

    pub fn hook(&self, hook: Hook) -> Settings {
        self.hooks.get(hook.as_str()).cloned().unwrap_or_default()
    }

    /// Whether the capability is granted, wholly or with limits.
    pub fn grants(&self, capability: &str) -> bool {
        self.grants.get(capability).is_some_and(|grant| *grant != toml::Value::Boolean(false))
    }

    /// What `config.get` answers: text as it is, everything else as JSON.
    pub fn config_value(&self, key: &str) -> Option<String> {
        self.config.get(key).map(|value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    }
}

impl Settings {
    /// Lower runs earlier.
    pub fn priority(&self) -> i32 {
        self.priority.unwrap_or(100)
    }

    /// A failing before-hook is as if it were not there.
    pub fn allows_failure(&self) -> bool {
        self.on_failure.as_deref() == Some("allow")
    }

    /// Whether a call with these facts is made.
    pub fn passes(&self, facts: &Facts<'_>) -> bool {
        let fits = |list: &[String], word: &str| list.is_empty() || list.iter().any(|item| item == word);
        fits(&self.conversations, facts.conversation.as_str())
            && facts.message.is_none_or(|kind| fits(&self.kinds, kind))
            && fits(&self.dialects, facts.dialect)
    }
}
