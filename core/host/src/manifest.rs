//! `plugin.toml`: what a plugin is, what it wants to hear, what it asks for and how it is bounded.
//!
//! [`Manifest::parse`] is the only way to one, so a `Manifest` always keeps every rule stated here. Which hooks exist is not
//! said here but by the component's exports; `[hooks]` orders, filters and bounds them.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    str::FromStr,
    time::Duration,
};

use chrono::{DateTime, Utc};
use haggle_engine::{
    BUILT_IN_KINDS,
    ports::{Facts, Hook, Route, RouteAccess},
    route,
};
use haggle_model::{ConversationKind, Millis, PluginId};
use serde::{Deserialize, Serialize};

use crate::grants::Capability;

/// Contract versions that this host speaks.
pub const API_VERSIONS: [&str; 1] = ["0.1"];
/// A manifest larger than this is not read, in bytes.
pub const MANIFEST_BYTES_MAX: usize = 256 * 1024;
/// Routes of the core's REST, as its router has them. A plugin's route may fit no path of one of these unless it is bound.
pub const CORE_ROUTES: [&str; 29] = [
    "/api/conversations",
    "/api/conversations/{id}",
    "/api/conversations/{id}/archive",
    "/api/conversations/{id}/commands/{name}",
    "/api/conversations/{id}/events",
    "/api/conversations/{id}/messages",
    "/api/conversations/{id}/messages/booking-request",
    "/api/conversations/{id}/messages/bulk-mark-read",
    "/api/conversations/{id}/messages/location",
    "/api/conversations/{id}/messages/service-offer",
    "/api/conversations/{id}/mute",
    "/api/conversations/{id}/participants",
    "/api/conversations/{id}/participants/{userId}",
    "/api/conversations/{id}/unarchive",
    "/api/conversations/{id}/unread-count",
    "/api/messages/{id}",
    "/api/messages/{id}/for-me",
    "/api/messages/{id}/reaction",
    "/api/messages/{id}/read",
    "/api/messages/{id}/reads",
    "/api/notifications",
    "/api/notifications/read-all",
    "/api/notifications/unread-count",
    "/api/notifications/{id}/read",
    "/api/users/me",
    "/api/users/me/blocks",
    "/api/users/{id}",
    "/api/users/{id}/block",
    "/api/users/{id}/presence",
];
/// Paths that are the server's own, with everything below them: its transports, its documents, what operators ask of it, and
/// other plugins. No plugin's route may fit one.
pub const SERVER_PATHS: [&str; 13] = [
    "/v1/*",
    "/socket.io/*",
    "/api/docs/*",
    "/openapi.json/*",
    "/problems/*",
    "/plugins/*",
    "/admin/*",
    "/metrics/*",
    "/livez/*",
    "/readyz/*",
    "/healthz/*",
    "/debug/*",
    "/.well-known/*",
];

const ID_CHARS_MAX: usize = 64;
const NAME_CHARS_MAX: usize = 128;
/// Claims, commands, routes or crons of one plugin.
const LIST_MAX: usize = 256;

/// What happens to a command when a before-hook fails (which is never the same as saying no).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// It goes on as if the plugin were not there; what the plugin wrote is dropped.
    Allow,
    /// It is refused with `plugin_error`.
    #[default]
    Reject,
}

/// Order, filters, deadline and failure policy of one hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookSettings {
    /// Lower runs earlier; equal ones run in the order of their ids. 100 where nothing is said.
    pub priority: i32,
    /// For before-hooks.
    pub on_failure: OnFailure,
    /// Wall-clock time of one call.
    pub deadline: Duration,
    /// After-hooks: begin with the log's first entry, not with the next one.
    pub from_start: bool,
    /// Which calls are made at all.
    pub filter: Filter,
}

/// What is looked at before a plugin is entered. An empty list lets everything through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    conversations: Vec<ConversationKind>,
    kinds: Vec<String>,
    dialects: Vec<String>,
}

impl Filter {
    /// Whether a call with these facts is made.
    pub fn passes(&self, facts: &Facts<'_>) -> bool {
        self.passes_known(Some(facts.conversation), facts.message, facts.dialect)
    }

    /// The same where the conversation's kind may be unknown: then its list is not asked.
    pub(crate) fn passes_known(&self, conversation: Option<ConversationKind>, kind: Option<&str>, dialect: &str) -> bool {
        let conversation_fits = conversation.is_none_or(|conversation| self.conversations.is_empty() || self.conversations.contains(&conversation));
        let kind_fits = kind.is_none_or(|kind| self.kinds.is_empty() || self.kinds.iter().any(|k| k == kind));
        let dialect_fits = self.dialects.is_empty() || self.dialects.iter().any(|d| d == dialect);
        conversation_fits && kind_fits && dialect_fits
    }
}

/// Bounds of one plugin; the operator's maxima come on top.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PluginLimits {
    /// Linear memory of one instance, in MiB.
    pub memory_mb: u32,
    /// Time on the CPU in one call, in milliseconds.
    pub cpu_ms: u32,
    /// Wall-clock time of one call where the hook has no `deadline_ms`, in milliseconds.
    pub wall_ms: u32,
    /// Instances alive at once: so many calls run at the same time, more wait.
    pub max_instances: u32,
    /// Calls after which an instance is replaced (give or take a quarter).
    pub recycle_after: u32,
    /// Host calls in one call.
    pub host_calls: u32,
    /// Bytes that host calls carry in and out in one call.
    pub host_call_bytes: u32,
    /// Bytes of one answer.
    pub output_bytes: u32,
}

impl Default for PluginLimits {
    fn default() -> PluginLimits {
        PluginLimits {
            memory_mb: 32,
            cpu_ms: 20,
            wall_ms: 200,
            max_instances: 8,
            recycle_after: 1000,
            host_calls: 256,
            host_call_bytes: 1024 * 1024,
            output_bytes: 512 * 1024,
        }
    }
}

/// What a manifest asks of one capability.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Grant {
    /// `kv` and `kv-global`: values larger than this are refused, in bytes.
    pub value_bytes_max: Option<usize>,
}

/// A plugin-wide timer.
#[derive(Clone, Debug, PartialEq)]
pub struct Cron {
    /// What the timer hook is called with.
    pub name: String,
    schedule: croner::Cron,
}

impl Cron {
    /// The last time at which it fell due after `after` and not after `until`.
    pub fn last_due(&self, after: Millis, until: Millis) -> Option<Millis> {
        let until = DateTime::<Utc>::from_timestamp_millis(until)?;
        let due = self.schedule.find_previous_occurrence(&until, true).ok()?.timestamp_millis();
        (due > after).then_some(due)
    }
}

/// A read and checked `plugin.toml`.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Also the kv namespace, the metrics label and the owner of context conversations.
    pub id: PluginId,
    /// The author's version.
    pub version: String,
    /// One line for operators.
    pub description: String,
    /// The code, relative to the manifest.
    pub wasm: String,
    /// What the code must hash to.
    pub sha256: Option<[u8; 32]>,
    /// Contract version.
    pub api: String,
    /// Kinds of message that are refused unless this plugin is active.
    pub claims: Vec<String>,
    /// Commands that clients may call.
    pub commands: Vec<String>,
    /// HTTP routes, with full paths.
    pub routes: Vec<Route>,
    /// Plugin-wide timers.
    pub crons: Vec<Cron>,
    /// Socket.IO namespaces that it can own; `*`: any. Which it does own the operator says.
    pub namespaces: Vec<String>,
    /// What is asked for.
    pub grants: BTreeMap<Capability, Grant>,
    /// Bounds.
    pub limits: PluginLimits,
    /// Defaults of the plugin's configuration.
    pub config: serde_json::Map<String, serde_json::Value>,
    /// What the configuration must look like; empty: anything.
    pub config_schema: BTreeMap<String, ConfigRule>,
    hooks: BTreeMap<&'static str, HookSettings>,
}

/// What one configuration key must be.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigRule {
    /// The type of the value.
    #[serde(rename = "type")]
    pub value_type: ConfigType,
    /// There must be a value.
    #[serde(default)]
    pub required: bool,
    /// For people.
    #[serde(default)]
    pub description: String,
}

/// The types a configuration value may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum ConfigType {
    String,
    Integer,
    Number,
    Boolean,
    Array,
    Table,
}

impl ConfigType {
    fn fits(self, value: &serde_json::Value) -> bool {
        match self {
            ConfigType::String => value.is_string(),
            ConfigType::Integer => value.is_i64() || value.is_u64(),
            ConfigType::Number => value.is_number(),
            ConfigType::Boolean => value.is_boolean(),
            ConfigType::Array => value.is_array(),
            ConfigType::Table => value.is_object(),
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            ConfigType::String => "a string",
            ConfigType::Integer => "an integer",
            ConfigType::Number => "a number",
            ConfigType::Boolean => "a boolean",
            ConfigType::Array => "an array",
            ConfigType::Table => "a table",
        }
    }
}

/// The manifest breaks a rule; the text names the key and the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ManifestError(pub String);

fn broken<T>(text: impl Into<String>) -> Result<T, ManifestError> {
    Err(ManifestError(text.into()))
}

// ---- the file as written -------------------------------------------------------------------------------------------

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    id: String,
    version: String,
    #[serde(default)]
    description: String,
    wasm: Option<String>,
    sha256: Option<String>,
    api: String,
    #[serde(default)]
    claims: Vec<String>,
    #[serde(default)]
    hooks: BTreeMap<String, WrittenHook>,
    #[serde(default)]
    routes: Vec<WrittenRoute>,
    #[serde(default)]
    crons: Vec<WrittenCron>,
    #[serde(default)]
    namespaces: WrittenNamespaces,
    #[serde(default)]
    grants: BTreeMap<String, toml::Value>,
    #[serde(default)]
    limits: PluginLimits,
    #[serde(default)]
    config: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    config_schema: BTreeMap<String, ConfigRule>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenHook {
    priority: Option<i32>,
    on_failure: Option<OnFailure>,
    deadline_ms: Option<u32>,
    from_start: bool,
    kinds: Vec<String>,
    conversations: Vec<String>,
    dialects: Vec<String>,
    names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRoute {
    method: String,
    path: String,
    access: String,
    #[serde(default)]
    bound: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenNamespaces {
    /// `/messages`, or `*`.
    names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCron {
    name: String,
    /// Five fields: minute, hour, day of month, month, day of week; UTC.
    schedule: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenGrant {
    value_bytes_max: Option<usize>,
}

impl Manifest {
    /// Reads and checks the text of a `plugin.toml`.
    pub fn parse(text: &str) -> Result<Manifest, ManifestError> {
        if text.len() > MANIFEST_BYTES_MAX {
            return broken(format!("the manifest has {} bytes; at most {MANIFEST_BYTES_MAX} are read", text.len()));
        }
        let written: Written = toml::from_str(text).map_err(|error| ManifestError(error.to_string().trim_end().to_owned()))?;
        check_id(&written.id)?;
        check_api(&written.api)?;
        let id = PluginId::from(written.id.as_str());
        let commands = written.hooks.get(Hook::Command.as_str()).map_or_else(Vec::new, |hook| hook.names.clone());
        let manifest = Manifest {
            version: check_version(written.version)?,
            description: written.description,
            wasm: check_wasm(written.wasm.unwrap_or_else(|| format!("{id}.wasm")))?,
            sha256: written.sha256.as_deref().map(parse_sha256).transpose()?,
            api: written.api,
            claims: check_claims(written.claims)?,
            commands: check_commands(commands)?,
            routes: check_routes(&id, written.routes)?,
            crons: check_crons(written.crons)?,
            namespaces: check_namespaces(written.namespaces.names)?,
            grants: check_grants(written.grants)?,
            hooks: check_hooks(written.hooks, &written.limits)?,
            limits: check_limits(written.limits)?,
            config: written.config,
            config_schema: written.config_schema,
            id,
        };
        manifest.merged_config(&serde_json::Map::new(), false)?;
        Ok(manifest)
    }

    /// The settings of a hook; defaults where the manifest does not name it.
    pub fn hook(&self, hook: Hook) -> HookSettings {
        self.hooks.get(hook.as_str()).cloned().unwrap_or_else(|| HookSettings {
            priority: PRIORITY_DEFAULT,
            on_failure: OnFailure::default(),
            deadline: Duration::from_millis(u64::from(self.limits.wall_ms)),
            from_start: false,
            filter: Filter::default(),
        })
    }

    /// Whether it can own this namespace.
    pub fn offers_namespace(&self, namespace: &str) -> bool {
        self.namespaces.iter().any(|name| name == "*" || name == namespace)
    }

    /// Hooks that `[hooks]` names.
    pub(crate) fn hooks_named(&self) -> impl Iterator<Item = &'static str> {
        self.hooks.keys().copied()
    }

    /// Capabilities that `[grants]` names.
    pub fn asked(&self) -> BTreeSet<Capability> {
        self.grants.keys().copied().collect()
    }

    /// `[config]` with the operator's values over it, checked by `[config_schema]`. `complete` also wants every required key.
    pub fn merged_config(
        &self,
        over: &serde_json::Map<String, serde_json::Value>,
        complete: bool,
    ) -> Result<serde_json::Map<String, serde_json::Value>, ManifestError> {
        let mut merged = self.config.clone();
        merged.extend(over.clone());
        if self.config_schema.is_empty() {
            return Ok(merged);
        }
        for (key, value) in &merged {
            match self.config_schema.get(key) {
                None => return broken(format!("config.{key}: [config_schema] does not know this key")),
                Some(rule) if !rule.value_type.fits(value) => {
                    return broken(format!("config.{key}: expected {}, found {value}", rule.value_type.as_str()));
                }
                Some(_) => {}
            }
        }
        let missing = self
            .config_schema
            .iter()
            .find(|(key, rule)| complete && rule.required && !merged.contains_key(*key));
        match missing {
            Some((key, _)) => broken(format!("config.{key}: required, but neither the manifest nor the operator sets it")),
            None => Ok(merged),
        }
    }
}

const PRIORITY_DEFAULT: i32 = 100;

// ---- the rules -----------------------------------------------------------------------------------------------------

fn is_name(text: &str, chars_max: usize, extra: &[u8]) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || extra.contains(&byte);
    (1..=chars_max).contains(&text.len()) && text.bytes().all(fits) && text.as_bytes()[0].is_ascii_lowercase()
}

fn check_id(id: &str) -> Result<(), ManifestError> {
    if is_name(id, ID_CHARS_MAX, b"-_") {
        return Ok(());
    }
    broken(format!(
        "id: `{id}` is not 1 to {ID_CHARS_MAX} of a-z, 0-9, - and _, beginning with a letter"
    ))
}

fn check_api(api: &str) -> Result<(), ManifestError> {
    let line: Vec<_> = api.splitn(3, '.').take(2).collect();
    if API_VERSIONS.contains(&line.join(".").as_str()) {
        return Ok(());
    }
    broken(format!(
        "api: built for haggle:plugin {api}, this host speaks {}",
        API_VERSIONS.join(", ")
    ))
}

fn check_version(version: String) -> Result<String, ManifestError> {
    let plain = version.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-+".contains(&byte));
    if plain && (1..=64).contains(&version.len()) && version.as_bytes()[0].is_ascii_digit() {
        return Ok(version);
    }
    broken(format!("version: `{version}` is not a version like 1.2.0"))
}

fn check_wasm(wasm: String) -> Result<String, ManifestError> {
    let stays_inside = !wasm.is_empty() && !wasm.starts_with('/') && !wasm.contains('\\') && wasm.split('/').all(|part| part != "..");
    if stays_inside {
        return Ok(wasm);
    }
    broken(format!("wasm: `{wasm}` must be a path below the manifest's folder"))
}

fn parse_sha256(text: &str) -> Result<[u8; 32], ManifestError> {
    let hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !hex {
        return broken(format!("sha256: `{text}` is not 64 hex digits"));
    }
    let mut digest = [0; 32];
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).expect("checked to be hex digits");
    }
    Ok(digest)
}

fn check_count<T>(what: &str, list: &[T]) -> Result<(), ManifestError> {
    if list.len() <= LIST_MAX {
        return Ok(());
    }
    broken(format!("{what}: {} of them; at most {LIST_MAX}", list.len()))
}

fn check_claims(claims: Vec<String>) -> Result<Vec<String>, ManifestError> {
    check_count("claims", &claims)?;
    for kind in &claims {
        if !is_name(kind, ID_CHARS_MAX, b"-_.") {
            return broken(format!(
                "claims: `{kind}` is not a kind of message: 1 to {ID_CHARS_MAX} of a-z, 0-9, -, _ and ."
            ));
        }
        if kind == "system" || BUILT_IN_KINDS.contains(&kind.as_str()) {
            return broken(format!("claims: `{kind}` belongs to the core"));
        }
    }
    no_duplicate("claims", claims.iter())?;
    Ok(claims)
}

fn check_commands(names: Vec<String>) -> Result<Vec<String>, ManifestError> {
    check_count("hooks.command.names", &names)?;
    if let Some(name) = names.iter().find(|name| !is_name(name, NAME_CHARS_MAX, b"-_.")) {
        return broken(format!(
            "hooks.command.names: `{name}` is not 1 to {NAME_CHARS_MAX} of a-z, 0-9, -, _ and ."
        ));
    }
    no_duplicate("hooks.command.names", names.iter())?;
    Ok(names)
}

fn no_duplicate<'a>(what: &str, names: impl Iterator<Item = &'a String>) -> Result<(), ManifestError> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return broken(format!("{what}: `{name}` stands there twice"));
        }
    }
    Ok(())
}

fn check_routes(id: &PluginId, written: Vec<WrittenRoute>) -> Result<Vec<Route>, ManifestError> {
    check_count("routes", &written)?;
    let routes = written.into_iter().map(|route| check_route(id, route)).collect::<Result<Vec<_>, _>>()?;
    let shapes: Vec<_> = routes.iter().map(Route::shape).collect();
    no_duplicate("routes", shapes.iter())?;
    Ok(routes)
}

fn check_route(id: &PluginId, written: WrittenRoute) -> Result<Route, ManifestError> {
    const METHODS: [&str; 8] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "*"];
    if !METHODS.contains(&written.method.as_str()) {
        return broken(format!("routes: method `{}` is none of {}", written.method, METHODS.join(", ")));
    }
    let access = match written.access.split_once(':') {
        None if written.access == "nobody" => RouteAccess::Nobody,
        None if written.access == "user" => RouteAccess::User,
        Some(("role", role)) if !role.is_empty() => RouteAccess::Role(role.to_owned()),
        _ => return broken(format!("routes: access `{}` is none of nobody, user, role:<name>", written.access)),
    };
    Ok(Route {
        plugin: id.clone(),
        method: written.method,
        path: check_path(id, &written.path, written.bound)?,
        access,
        bound: written.bound,
    })
}

/// Relative paths stand under the plugin's own prefix; absolute ones are mounted, over a route of the core only where they are
/// bound.
fn check_path(id: &PluginId, written: &str, is_bound: bool) -> Result<String, ManifestError> {
    let own = format!("/plugins/{id}");
    let path = if written.starts_with('/') {
        written.to_owned()
    } else {
        format!("{own}/{written}")
    };
    let segments: Vec<_> = path[1..].split('/').collect();
    let parameters: Vec<_> = segments.iter().copied().filter_map(route::parameter).collect();
    let named = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let plain = |segment: &str| {
        let text = route::parameter(segment).map_or(segment, |name| if named(name) { name } else { "{" });
        text != ".." && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte))
    };
    let (last, inner) = segments.split_last().expect("split gives at least one part");
    if inner.iter().any(|segment| segment.is_empty() || !plain(segment)) || !(plain(last) || *last == "*") {
        return broken(format!(
            "routes: path `{written}` is not plain segments, some of them perhaps a whole `{{name}}`, at the end perhaps `*`"
        ));
    }
    if let Some(twice) = parameters
        .iter()
        .enumerate()
        .find_map(|(at, name)| parameters[..at].contains(name).then_some(name))
    {
        return broken(format!("routes: path `{written}` has two parameters `{{{twice}}}`"));
    }
    if path == own || path.starts_with(&format!("{own}/")) {
        return Ok(path);
    }
    if path == "/" {
        return broken(format!("routes: path `{written}` would lie over the server's front page"));
    }
    if let Some(server) = SERVER_PATHS.into_iter().find(|server| route::overlap(&path, server)) {
        return broken(format!(
            "routes: path `{written}` lies over the server's own `{server}`; below `{own}/` everything is yours"
        ));
    }
    match CORE_ROUTES.into_iter().find(|core| route::overlap(&path, core)) {
        Some(core) if !is_bound => broken(format!(
            "routes: path `{written}` lies over the core's `{core}`; below `{own}/` everything is yours, and with bound = true it is answered \
             where the operator binds the plugin to a host or port by [[http.routes]]"
        )),
        _ => Ok(path),
    }
}

/// Whether a client may ask for a namespace of this name: `/` and then plain characters.
pub fn is_namespace(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    name.starts_with('/') && name.len() <= NAME_CHARS_MAX && name.bytes().all(plain)
}

fn check_namespaces(names: Vec<String>) -> Result<Vec<String>, ManifestError> {
    check_count("namespaces.names", &names)?;
    if let Some(name) = names.iter().find(|name| *name != "*" && !is_namespace(name)) {
        return broken(format!(
            "namespaces.names: `{name}` is neither `*` nor a `/` with letters, digits, -, _, ., ~ and / behind it"
        ));
    }
    no_duplicate("namespaces.names", names.iter())?;
    Ok(names)
}

fn check_crons(written: Vec<WrittenCron>) -> Result<Vec<Cron>, ManifestError> {
    check_count("crons", &written)?;
    no_duplicate("crons", written.iter().map(|cron| &cron.name))?;
    written.into_iter().map(check_cron).collect()
}

fn check_cron(written: WrittenCron) -> Result<Cron, ManifestError> {
    let WrittenCron { name, schedule } = written;
    if !is_name(&name, NAME_CHARS_MAX, b"-_.") {
        return broken(format!("crons: name `{name}` is not 1 to {NAME_CHARS_MAX} of a-z, 0-9, -, _ and ."));
    }
    if schedule.split_whitespace().count() != 5 {
        return broken(format!("crons: schedule `{schedule}` is not five fields: minute hour day month weekday"));
    }
    match schedule.parse() {
        Ok(schedule) => Ok(Cron { name, schedule }),
        Err(error) => broken(format!("crons: schedule `{schedule}`: {error}")),
    }
}

fn check_grants(written: BTreeMap<String, toml::Value>) -> Result<BTreeMap<Capability, Grant>, ManifestError> {
    let mut grants = BTreeMap::new();
    for (name, value) in written {
        let capability = Capability::from_str(&name).map_err(|text| ManifestError(format!("grants: {text}")))?;
        if let Some(grant) = check_grant(capability, value)? {
            grants.insert(capability, grant);
        }
    }
    Ok(grants)
}

fn check_grant(capability: Capability, value: toml::Value) -> Result<Option<Grant>, ManifestError> {
    match value {
        toml::Value::Boolean(false) => Ok(None),
        toml::Value::Boolean(true) => Ok(Some(Grant::default())),
        toml::Value::Table(_) => {
            let grant: WrittenGrant = value
                .try_into()
                .map_err(|error: toml::de::Error| ManifestError(format!("grants.{capability}: {}", error.message())))?;
            let is_kv = matches!(capability, Capability::Kv | Capability::KvGlobal);
            if grant.value_bytes_max.is_some() && !is_kv {
                return broken(format!("grants.{capability}: value_bytes_max is for kv and kv-global"));
            }
            Ok(Some(Grant {
                value_bytes_max: grant.value_bytes_max,
            }))
        }
        other => broken(format!("grants.{capability}: expected true, false or a table, found {other}")),
    }
}

fn check_hooks(written: BTreeMap<String, WrittenHook>, limits: &PluginLimits) -> Result<BTreeMap<&'static str, HookSettings>, ManifestError> {
    let mut hooks = BTreeMap::new();
    for (name, hook) in written {
        let Some(known) = Hook::ALL.into_iter().find(|hook| hook.as_str() == name) else {
            return broken(format!(
                "hooks: there is no hook `{name}`; known: {}",
                Hook::ALL.map(Hook::as_str).join(", ")
            ));
        };
        hooks.insert(known.as_str(), check_hook(known, hook, limits)?);
    }
    Ok(hooks)
}

fn check_hook(hook: Hook, written: WrittenHook, limits: &PluginLimits) -> Result<HookSettings, ManifestError> {
    let name = hook.as_str();
    let only = |key: &str, used: bool, fits: bool| {
        if used && !fits {
            broken(format!("hooks.{name}: {key} means nothing here"))
        } else {
            Ok(())
        }
    };
    only("on_failure", written.on_failure.is_some(), name.starts_with("before-"))?;
    only(
        "from_start",
        written.from_start,
        name.starts_with("after-") && hook != Hook::AfterConnection,
    )?;
    only("names", !written.names.is_empty(), hook == Hook::Command)?;
    only(
        "kinds",
        !written.kinds.is_empty(),
        matches!(hook, Hook::BeforeMessage | Hook::AfterMessage),
    )?;
    // The log does not keep in which dialect something was asked, and the other handlers are chosen by name, not by a filter.
    only("dialects", !written.dialects.is_empty(), name.starts_with("before-"))?;
    let deadline_ms = written.deadline_ms.unwrap_or(limits.wall_ms);
    if deadline_ms == 0 {
        return broken(format!("hooks.{name}: deadline_ms must be at least 1"));
    }
    Ok(HookSettings {
        priority: written.priority.unwrap_or(PRIORITY_DEFAULT),
        on_failure: written.on_failure.unwrap_or_default(),
        deadline: Duration::from_millis(u64::from(deadline_ms)),
        from_start: written.from_start,
        filter: Filter {
            conversations: check_conversations(name, &written.conversations)?,
            kinds: written.kinds,
            dialects: written.dialects,
        },
    })
}

fn check_conversations(hook: &str, names: &[String]) -> Result<Vec<ConversationKind>, ManifestError> {
    use ConversationKind::{Broadcast, Context, Direct, Group, Personal};
    let all = [Direct, Group, Context, Broadcast, Personal];
    let parse = |name: &String| {
        let found = all.into_iter().find(|kind| kind.as_str() == name);
        found.ok_or_else(|| {
            ManifestError(format!(
                "hooks.{hook}: conversations: `{name}` is none of {}",
                all.map(ConversationKind::as_str).join(", ")
            ))
        })
    };
    names.iter().map(parse).collect()
}

fn check_limits(limits: PluginLimits) -> Result<PluginLimits, ManifestError> {
    let rules = [
        ("memory_mb", limits.memory_mb, 4096),
        ("cpu_ms", limits.cpu_ms, 60_000),
        ("wall_ms", limits.wall_ms, 60_000),
        ("max_instances", limits.max_instances, 1024),
        ("recycle_after", limits.recycle_after, 1_000_000),
        ("host_calls", limits.host_calls, 100_000),
        ("host_call_bytes", limits.host_call_bytes, 64 * 1024 * 1024),
        ("output_bytes", limits.output_bytes, 64 * 1024 * 1024),
    ];
    match rules.into_iter().find(|(_, value, max)| !(1..=*max).contains(value)) {
        Some((name, value, max)) => broken(format!("limits.{name}: {value} is not between 1 and {max}")),
        None => Ok(limits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "id = \"offers\"\nversion = \"1.2.0\"\napi = \"0.1\"\n";

    #[track_caller]
    fn check(rest: &str, expect: &str) {
        let error = Manifest::parse(&format!("{HEAD}{rest}")).expect_err("the manifest breaks a rule");
        assert!(error.0.contains(expect), "{error} does not say {expect}");
    }

    #[track_caller]
    fn good(rest: &str) -> Manifest {
        Manifest::parse(&format!("{HEAD}{rest}")).unwrap()
    }

    #[test]
    fn namespaces_are_offered_by_name_or_all() {
        let some = good("[namespaces]\nnames = [\"/\", \"/messages\"]");
        assert!(some.offers_namespace("/") && some.offers_namespace("/messages") && !some.offers_namespace("/other"));
        assert!(good("[namespaces]\nnames = [\"*\"]").offers_namespace("/other"));
        assert!(!good("").offers_namespace("/"));
    }

    #[test]
    fn a_whole_manifest_is_read() {
        let manifest = good(
            r#"
            wasm = "offers.wasm"
            claims = ["service_offer"]
            [hooks]
            before-message = { priority = 50, on_failure = "allow", deadline_ms = 20, kinds = ["service_offer"], conversations = ["direct"] }
            command = { names = ["offer.create", "offer.accept"] }
            [[routes]]
            method = "GET"
            path = "open"
            access = "role:admin"
            [[crons]]
            name = "tidy"
            schedule = "0 3 * * *"
            [grants]
            kv = { value_bytes_max = 65536 }
            log = true
            users = false
            [limits]
            memory_mb = 16
            [config]
            fee_percent = 3
            "#,
        );
        let hook = manifest.hook(Hook::BeforeMessage);
        assert_eq!(
            (hook.priority, hook.on_failure, hook.deadline),
            (50, OnFailure::Allow, Duration::from_millis(20))
        );
        assert_eq!(manifest.commands, ["offer.create", "offer.accept"]);
        assert_eq!(manifest.routes[0].path, "/plugins/offers/open");
        assert_eq!(manifest.routes[0].access, RouteAccess::Role("admin".into()));
        assert_eq!(manifest.asked(), [Capability::Log, Capability::Kv].into());
        assert_eq!(manifest.grants[&Capability::Kv].value_bytes_max, Some(65536));
        assert_eq!((manifest.limits.memory_mb, manifest.limits.cpu_ms), (16, 20));
        assert_eq!(manifest.config["fee_percent"], 3);
    }

    #[test]
    fn a_hook_without_settings_refuses_on_failure_within_the_wall_limit() {
        let hook = good("[limits]\nwall_ms = 70").hook(Hook::BeforeMessage);
        assert_eq!((hook.on_failure, hook.deadline), (OnFailure::Reject, Duration::from_millis(70)));
    }

    #[test]
    fn unknown_keys_are_named() {
        check("colour = 1", "unknown field `colour`");
        check("[hooks]\nbefore-message = { prio = 1 }", "unknown field `prio`");
        check("[limits]\nmemory = 1", "unknown field `memory`");
        check("[hooks]\nbefore-mesage = {}", "there is no hook `before-mesage`; known: before-message");
        check("[grants]\nfiles = true", "there is no capability `files`; known: log");
    }

    #[test]
    fn values_out_of_bounds_are_named() {
        check("[limits]\nmemory_mb = 0", "limits.memory_mb: 0 is not between 1 and 4096");
        check("[hooks]\nbefore-message = { deadline_ms = 0 }", "deadline_ms must be at least 1");
        check("sha256 = \"abc\"", "not 64 hex digits");
        check("wasm = \"../x.wasm\"", "below the manifest's folder");
        check("[namespaces]\nnames = [\"shop\"]", "`shop` is neither");
        check("[namespaces]\nnames = [\"/a\", \"/a\"]", "stands there twice");
        check("claims = [\"text\"]", "`text` belongs to the core");
        check("claims = [\"system\"]", "`system` belongs to the core");
        check("claims = [\"a\", \"a\"]", "stands there twice");
        check("[hooks]\nafter-message = { on_failure = \"allow\" }", "on_failure means nothing here");
        for hook in ["after-message", "after-receipt", "after-connection", "command", "namespace"] {
            let expect = format!("hooks.{hook}: dialects means nothing here");
            check(&format!("[hooks]\n{hook} = {{ dialects = [\"shop\"] }}"), &expect);
        }
        check(
            "[hooks]\nbefore-message = { conversations = [\"pair\"] }",
            "`pair` is none of direct, group",
        );
        check("[[crons]]\nname = \"x\"\nschedule = \"every day\"", "is not five fields");
        check("[[crons]]\nname = \"x\"\nschedule = \"61 * * * *\"", "crons: schedule `61 * * * *`");
        check("[grants]\nusers = { value_bytes_max = 3 }", "is for kv and kv-global");
    }

    #[test]
    fn other_contract_versions_are_refused_by_name() {
        let text = HEAD.replace("0.1", "0.3");
        let error = Manifest::parse(&text).unwrap_err();
        assert_eq!(error.0, "api: built for haggle:plugin 0.3, this host speaks 0.1");
        assert!(
            Manifest::parse(&HEAD.replace("\"0.1\"", "\"0.1.4\"")).is_ok(),
            "patch versions of the contract only add"
        );
    }

    #[test]
    fn routes_over_the_core_are_refused() {
        let route = |path: &str| format!("[[routes]]\nmethod = \"GET\"\npath = \"{path}\"\naccess = \"user\"");
        for path in [
            "/api/messages/conversations",
            "/API/Messages/x",
            "/api/messages/{message}/read",
            "/api/users/me",
        ] {
            check(&route(path), "lies over the core's `/api/");
            check(&route(path), "with bound = true");
            assert!(good(&format!("{}\nbound = true", route(path))).routes[0].bound, "{path}");
        }
        for path in [
            "/v1/ws",
            "/socket.io",
            "/socket.io/x",
            "/openapi.json",
            "/problems/not_found",
            "/api/docs/index.html",
            "/plugins/other/x",
            "/metrics",
            "/",
            "/*",
            "/api/*",
            "/{anything}",
            "/{any}/thing",
        ] {
            check(&route(path), "lie");
            check(&format!("{}\nbound = true", route(path)), "lie");
        }
        for path in [
            "/legacy//x",
            "/legacy/../api",
            "/legacy/%61pi",
            "/le gacy",
            "/a/*/b",
            "/a/{b}c",
            "/a/{}",
            "/a/{b-c}",
            "/a/}b{",
        ] {
            check(&route(path), "is not plain segments");
        }
        check(&route("/a/{b}/{b}"), "has two parameters `{b}`");
        let two = format!("{}\n{}", route("/a/{b}"), route("/a/{c}"));
        check(&two, "`GET /a/{}` stands there twice");
        for path in [
            "/legacy/chat/*",
            "/plugins/offers/x",
            "/plugins/offers/{id}",
            "/apiary",
            "/api/messages",
            "/api/v0/chat/conversation/{id}/messages",
            "/message/getAll/{idChat}",
            "/messaging/conversations/booking/{bookingId}",
        ] {
            assert_eq!(good(&route(path)).routes[0].path, path);
        }
    }

    #[test]
    fn filters_let_through_what_they_name() {
        let hook =
            good("[hooks]\nbefore-message = { kinds = [\"text\"], conversations = [\"direct\"], dialects = [\"native\"] }").hook(Hook::BeforeMessage);
        let facts = |conversation, message, dialect| Facts {
            conversation,
            message: Some(message),
            dialect,
        };
        assert!(hook.filter.passes(&facts(ConversationKind::Direct, "text", "native")));
        assert!(!hook.filter.passes(&facts(ConversationKind::Group, "text", "native")));
        assert!(!hook.filter.passes(&facts(ConversationKind::Direct, "image", "native")));
        assert!(!hook.filter.passes(&facts(ConversationKind::Direct, "text", "shop")));
        assert!(
            hook.filter.passes_known(None, Some("text"), "native"),
            "an unknown kind of conversation passes"
        );
    }

    #[test]
    fn crons_are_due_once_per_time() {
        let cron = &good("[[crons]]\nname = \"tidy\"\nschedule = \"*/10 * * * *\"").crons[0];
        let minute = 60_000;
        assert_eq!(cron.last_due(0, 9 * minute), None);
        assert_eq!(cron.last_due(9 * minute, 10 * minute), Some(10 * minute));
        assert_eq!(cron.last_due(10 * minute, 19 * minute), None, "not twice");
        assert_eq!(cron.last_due(0, 35 * minute), Some(30 * minute), "after a pause only the last one");
    }

    #[test]
    fn configuration_is_merged_and_checked() {
        let manifest = good("[config]\nfee = 3\n[config_schema]\nfee = { type = \"integer\" }\nkey = { type = \"string\", required = true }");
        let over = |text: &str| serde_json::from_str::<serde_json::Map<_, _>>(text).unwrap();
        assert_eq!(manifest.merged_config(&over(r#"{"key":"k","fee":5}"#), true).unwrap()["fee"], 5);
        assert!(manifest.merged_config(&over("{}"), true).unwrap_err().0.contains("config.key: required"));
        assert!(
            manifest
                .merged_config(&over(r#"{"fee":"x"}"#), true)
                .unwrap_err()
                .0
                .contains("expected an integer, found \"x\"")
        );
        assert!(
            manifest
                .merged_config(&over(r#"{"feee":1}"#), true)
                .unwrap_err()
                .0
                .contains("config.feee")
        );
    }
}
