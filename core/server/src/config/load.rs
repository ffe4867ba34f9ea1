//! Merges the sources, each value with the place it came from, and refuses keys that nobody knows.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use config::{Config, ConfigError, File, FileFormat, Map, Source, Value, ValueKind};

use super::{nearest, settings::Settings};
use crate::failure::Failure;

/// The beginning of our environment variables.
const ENV_PREFIX: &str = "HAGGLE__";

/// Tables whose keys are not ours to know, and how many there are below each other at least.
const FREE_FORM: [(&str, usize); 2] = [("plugins.config", 2), ("plugins.grants_by_plugin", 1)];

/// What `config show` prints instead of a secret.
const MASKED: &str = "\"********\"";

/// A value from the command line.
#[derive(Clone, Debug)]
pub struct Flag {
    /// As it was typed: `--data`.
    pub name: &'static str,
    /// The key it sets.
    pub key: &'static str,
    /// The value.
    pub value: String,
}

/// Where settings come from, weakest first.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// Environment variables; those that do not start with `HAGGLE__` are ignored.
    pub env: Vec<(String, String)>,
    /// The command line.
    pub flags: Vec<Flag>,
}

impl Sources {
    /// With the environment of this process.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<Flag>) -> Sources {
        // Names or values that are no UTF-8 cannot be ours.
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Sources { file, env, flags }
    }
}

/// One value in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// `section.key`.
    pub key: String,
    /// As it would stand in the file; secrets are masked.
    pub value: String,
    /// `default`, a file, an environment variable or a flag.
    pub source: String,
}

/// The settings and where each came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings in force.
    pub settings: Settings,
    /// Every value, in the order of their keys.
    pub effective: Vec<Effective>,
}

/// Merges the sources. Does not run [`Settings::check`].
pub fn load(sources: &Sources) -> Result<Loaded, Failure> {
    let defaults = Layer::of_defaults();
    let known = defaults.values.clone();
    let mut builder = Config::builder().add_source(defaults);
    let mut problems = Problems::default();
    if let Some(path) = &sources.file {
        builder = builder.add_source(file_layer(path, &known, &mut problems)?);
    }
    builder = builder.add_source(env_layer(&sources.env, &known, &mut problems));
    builder = builder.add_source(Layer::of_flags(&sources.flags));
    problems.into_result()?;

    let merged = builder.build().map_err(|error| invalid(&error))?;
    let effective = effective(&merged)?;
    let settings = merged.try_deserialize().map_err(|error| invalid(&error))?;
    Ok(Loaded { settings, effective })
}

/// Values by full key, each with its origin.
#[derive(Clone, Debug, Default)]
struct Layer {
    values: BTreeMap<String, Value>,
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.values.clone().into_iter().collect())
    }
}

impl Layer {
    fn of_defaults() -> Layer {
        let table = toml::Value::try_from(Settings::default()).expect("settings are plain tables, strings and numbers");
        let toml = toml::to_string(&table).expect("a TOML value can be written as TOML");
        let values = File::from_str(&toml, FileFormat::Toml)
            .collect()
            .expect("what was just written can be read");
        Layer::flat(values, &"default".to_owned())
    }

    fn of_flags(flags: &[Flag]) -> Layer {
        let values = flags.iter().map(|flag| (flag.key.to_owned(), text(flag.name, &flag.value))).collect();
        Layer { values }
    }

    fn flat(table: Map<String, Value>, origin: &String) -> Layer {
        let mut layer = Layer::default();
        layer.add("", table, origin);
        layer
    }

    fn add(&mut self, prefix: &str, table: Map<String, Value>, origin: &String) {
        for (key, value) in table {
            let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
            match value.kind {
                ValueKind::Table(inner) => self.add(&key, inner, origin),
                kind => drop(self.values.insert(key, Value::new(Some(origin), kind))),
            }
        }
    }
}

fn file_layer(path: &Path, known: &BTreeMap<String, Value>, problems: &mut Problems) -> Result<Layer, Failure> {
    let origin = path.display().to_string();
    let toml = std::fs::read_to_string(path).map_err(|error| {
        Failure::usage(format!("cannot read the configuration file {origin}: {error}"))
            .hint("haggle config default > haggle.toml, then --config haggle.toml")
    })?;
    let table = File::from_str(&toml, FileFormat::Toml)
        .collect()
        .map_err(|error| Failure::usage(format!("{origin} is no valid TOML: {error}")))?;
    let layer = Layer::flat(table, &origin);
    for key in layer.values.keys().filter(|key| !is_known(key, known)) {
        problems.unknown(
            &format!("{key} in {origin}"),
            nearest(key, known.keys().map(String::as_str)).map(str::to_owned),
        );
    }
    Ok(layer)
}

fn env_layer(env: &[(String, String)], known: &BTreeMap<String, Value>, problems: &mut Problems) -> Layer {
    let mut layer = Layer::default();
    for (name, value) in env {
        let Some(rest) = name.strip_prefix(ENV_PREFIX) else { continue };
        let key = rest.to_ascii_lowercase().replace("__", ".");
        if is_known(&key, known) {
            let is_list = matches!(known.get(&key).map(|default| &default.kind), Some(ValueKind::Array(_)));
            layer.values.insert(key, if is_list { list(name, value) } else { text(name, value) });
        } else {
            problems.unknown(
                &format!("environment variable {name}"),
                nearest(&key, known.keys().map(String::as_str)).map(env_name),
            );
        }
    }
    layer
}

/// `server.listen` as `HAGGLE__SERVER__LISTEN`.
fn env_name(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

fn is_known(key: &str, known: &BTreeMap<String, Value>) -> bool {
    known.contains_key(key)
        || FREE_FORM.iter().any(|(table, depth)| {
            key.strip_prefix(table)
                .is_some_and(|rest| rest.starts_with('.') && rest.matches('.').count() >= *depth)
        })
}

/// A value as text: what asks for a number or a boolean parses it.
fn text(origin: &str, value: &str) -> Value {
    Value::new(Some(&origin.to_owned()), ValueKind::String(value.to_owned()))
}

/// Commas between the items; nothing is an empty list.
fn list(origin: &str, value: &str) -> Value {
    let items = value
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(|item| text(origin, item))
        .collect();
    Value::new(Some(&origin.to_owned()), ValueKind::Array(items))
}

#[derive(Default)]
struct Problems {
    unknown: Vec<(String, Option<String>)>,
}

impl Problems {
    fn unknown(&mut self, what: &str, meant: Option<String>) {
        self.unknown.push((what.to_owned(), meant));
    }

    fn into_result(self) -> Result<(), Failure> {
        let Some((_, first_meant)) = self.unknown.first() else { return Ok(()) };
        let hint = match first_meant {
            Some(meant) => format!("{meant} (`haggle config default` explains every key)"),
            None => "`haggle config default` explains every key".to_owned(),
        };
        let mut message = String::new();
        for (index, (what, meant)) in self.unknown.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            let meant = meant.as_ref().map_or_else(String::new, |meant| format!("; did you mean {meant}?"));
            let _ = write!(message, "{separator}unknown key {what}{meant}");
        }
        Err(Failure::usage(message).hint(hint))
    }
}

fn invalid(error: &ConfigError) -> Failure {
    Failure::usage(error.to_string()).hint("`haggle config default` shows a valid value for every key")
}

fn effective(merged: &Config) -> Result<Vec<Effective>, Failure> {
    let table = merged.collect().map_err(|error| invalid(&error))?;
    let mut values = Vec::new();
    list_effective("", table, &mut values);
    values.sort_by(|a: &Effective, b| a.key.cmp(&b.key));
    Ok(values)
}

fn list_effective(prefix: &str, table: Map<String, Value>, values: &mut Vec<Effective>) {
    for (key, value) in table {
        let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        let source = value.origin().unwrap_or("default").to_owned();
        match value.kind {
            ValueKind::Table(inner) => list_effective(&key, inner, values),
            kind => values.push(Effective {
                value: shown(&key, kind),
                key,
                source,
            }),
        }
    }
}

fn shown(key: &str, kind: ValueKind) -> String {
    let is_empty = matches!(&kind, ValueKind::String(text) if text.is_empty()) || matches!(&kind, ValueKind::Array(items) if items.is_empty());
    if is_secret(key) && !is_empty { MASKED.to_owned() } else { as_toml(kind) }
}

/// By its name; what a plugin calls a secret is one.
fn is_secret(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or(key);
    key == "auth.secret"
        || key == "auth.old_secrets"
        || (key.starts_with("plugins.config.")
            && ["secret", "token", "password", "key", "credential"]
                .iter()
                .any(|word| last.contains(word)))
}

fn as_toml(kind: ValueKind) -> String {
    match kind {
        ValueKind::Array(items) => format!("[{}]", items.into_iter().map(|item| as_toml(item.kind)).collect::<Vec<_>>().join(", ")),
        ValueKind::String(text) => toml::Value::String(text).to_string(),
        ValueKind::Table(table) => {
            let mut fields: Vec<String> = table.into_iter().map(|(key, value)| format!("{key} = {}", as_toml(value.kind))).collect();
            fields.sort();
            format!("{{ {} }}", fields.join(", "))
        }
        ValueKind::Nil => "\"\"".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DEFAULT_TOML;

    fn with_file(toml: &str, env: &[(&str, &str)]) -> Result<Loaded, Failure> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("haggle.toml");
        std::fs::write(&path, toml).expect("a file");
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        load(&Sources {
            file: Some(path),
            env,
            flags: Vec::new(),
        })
    }

    fn with_env(env: &[(&str, &str)]) -> Result<Loaded, Failure> {
        with_file("", env)
    }

    #[track_caller]
    fn source_of(loaded: &Loaded, key: &str) -> String {
        loaded
            .effective
            .iter()
            .find(|value| value.key == key)
            .expect("the key is in force")
            .source
            .clone()
    }

    #[test]
    fn the_annotated_file_says_exactly_the_defaults() {
        let written = toml::from_str(DEFAULT_TOML).expect("the annotated file is TOML");
        let defaults = toml::Value::try_from(Settings::default()).expect("a table").try_into().expect("a table");
        let (written, defaults) = (leaves("", &written), leaves("", &defaults));
        let difference: Vec<_> = written.symmetric_difference(&defaults).collect();
        assert!(difference.is_empty(), "config/default.toml and the code disagree: {difference:#?}");
        assert_eq!(
            with_file(DEFAULT_TOML, &[]).expect("the annotated file is valid").settings,
            Settings::default()
        );
    }

    fn leaves(prefix: &str, table: &toml::Table) -> std::collections::BTreeSet<String> {
        let of = |(key, value): (&String, &toml::Value)| match value {
            toml::Value::Table(inner) => leaves(&format!("{prefix}{key}."), inner),
            _ => [format!("{prefix}{key} = {value}")].into(),
        };
        table.iter().flat_map(of).collect()
    }

    #[test]
    fn every_key_of_the_annotated_file_is_explained() {
        let lines: Vec<&str> = DEFAULT_TOML.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let is_key = !line.starts_with('#') && line.contains(" = ");
            let explained = index > 0 && (lines[index - 1].starts_with("# "));
            assert!(!is_key || explained, "line {}: {line} has no comment above it", index + 1);
        }
    }

    #[test]
    fn the_environment_wins_over_the_file_and_flags_over_both() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("haggle.toml");
        std::fs::write(&path, "[server]\nthreads = 1\nlisten = \"127.0.0.1:1\"\ndata_dir = \"file\"").expect("a file");
        let env = vec![
            ("HAGGLE__SERVER__LISTEN".into(), "127.0.0.1:2".into()),
            ("HAGGLE__SERVER__DATA_DIR".into(), "env".into()),
        ];
        let flags = vec![Flag {
            name: "--data",
            key: "server.data_dir",
            value: "flag".into(),
        }];
        let loaded = load(&Sources {
            file: Some(path.clone()),
            env,
            flags,
        })
        .expect("valid");
        let server = &loaded.settings.server;
        assert_eq!(
            (server.threads, server.listen.port(), server.data_dir.as_path()),
            (1, 2, Path::new("flag"))
        );
        assert_eq!(source_of(&loaded, "server.threads"), path.display().to_string());
        assert_eq!(source_of(&loaded, "server.listen"), "HAGGLE__SERVER__LISTEN");
        assert_eq!(source_of(&loaded, "server.data_dir"), "--data");
        assert_eq!(source_of(&loaded, "server.admin"), "default");
    }

    #[test]
    fn an_unknown_key_of_the_file_suggests_the_nearest() {
        let error = with_file("[server]\nlisen = \"127.0.0.1:1\"", &[]).expect_err("unknown").message;
        assert!(
            error.contains("server.lisen in ") && error.contains("haggle.toml; did you mean server.listen?"),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_variable_suggests_the_nearest() {
        let error = with_env(&[("HAGGLE__SERVER__LISSEN", "x")]).expect_err("unknown").message;
        assert_eq!(
            error,
            "unknown key environment variable HAGGLE__SERVER__LISSEN; did you mean HAGGLE__SERVER__LISTEN?"
        );
    }

    #[test]
    fn every_unknown_key_is_named_at_once() {
        let error = with_file("[server]\na = 1\n[nothing]\nb = 2", &[("HAGGLE__X", "1")])
            .expect_err("unknown")
            .message;
        assert_eq!(error.lines().count(), 3, "{error}");
    }

    #[test]
    fn a_wrong_type_names_key_and_place() {
        let error = with_env(&[("HAGGLE__SERVER__THREADS", "many")]).expect_err("no number").message;
        assert!(error.contains("server.threads") && error.contains("HAGGLE__SERVER__THREADS"), "{error}");
    }

    #[test]
    fn text_of_the_environment_stays_text() {
        let loaded = with_env(&[
            ("HAGGLE__AUTH__SECRET", "007"),
            ("HAGGLE__AUTH__ORIGINS", "https://a.example, https://b.example"),
        ])
        .expect("valid");
        assert_eq!(loaded.settings.auth.secret, "007");
        assert_eq!(loaded.settings.auth.origins, ["https://a.example", "https://b.example"]);
    }

    #[test]
    fn numbers_and_booleans_of_the_environment_are_parsed() {
        let loaded = with_env(&[("HAGGLE__LIMITS__RATE_PER_HOUR", "100"), ("HAGGLE__AUTH__DEV", "true")]).expect("valid");
        assert_eq!((loaded.settings.limits.rate_per_hour, loaded.settings.auth.dev), (100, true));
    }

    #[test]
    fn secrets_are_not_shown() {
        let loaded = with_file(
            "[auth]\nsecret = \"hunter2\"\n[plugins.config.mailer]\napi_token = \"hunter2\"\ngreeting = \"hi\"",
            &[],
        )
        .expect("valid");
        let all: String = loaded
            .effective
            .iter()
            .map(|value| format!("{} = {}\n", value.key, value.value))
            .collect();
        assert!(!all.contains("hunter2"), "{all}");
        assert!(all.contains("plugins.config.mailer.greeting = \"hi\""), "{all}");
    }

    #[test]
    fn a_plugins_values_keep_their_types() {
        let loaded = with_file("[plugins.config.service-offers]\nexpiry_hours = 48\nstrict = true", &[]).expect("valid");
        let config = &loaded.settings.plugins.config["service-offers"];
        assert_eq!(config["expiry_hours"].as_integer(), Some(48));
        assert_eq!(config["strict"].as_bool(), Some(true));
    }

    #[test]
    fn limits_are_those_of_the_model_and_the_gateway() {
        assert_eq!(Settings::default().limits.limits(), haggle_model::Limits::default());
        let gateway = Settings::default().gateway();
        let defaults = haggle_gateway::GatewaySettings::default();
        assert_eq!((gateway.rest, gateway.ws, gateway.users), (defaults.rest, defaults.ws, defaults.users));
        assert_eq!(gateway.socketio, defaults.socketio);
    }

    #[track_caller]
    fn check_refused(toml: &str, expect: &str) {
        let error = with_file(toml, &[]).expect("readable").settings.check().expect_err("refused").to_string();
        assert!(error.contains(expect), "{error}");
    }

    #[test]
    fn a_server_without_a_key_is_refused() {
        check_refused("", "auth.secret");
    }

    #[test]
    fn the_dev_key_is_refused_beyond_loopback() {
        check_refused("[auth]\ndev = true\n[server]\nlisten = \"0.0.0.0:3001\"", "auth.dev");
    }

    #[test]
    fn a_commit_does_not_wait_for_long() {
        let auth = "[auth]\nsecret = \"0123456789012345678901234567890123456789\"\n[store]\n";
        check_refused(
            &format!("{auth}commit_interval_us = 20001"),
            "store.commit_interval_us = 20001 is too large",
        );
        let settings = with_file(&format!("{auth}commit_interval_us = 20000"), &[]).expect("readable").settings;
        settings.check().expect("good");
    }

    #[test]
    fn socketio_is_checked() {
        let auth = "[auth]\nsecret = \"0123456789012345678901234567890123456789\"\n[socketio]\n";
        for (line, expect) in [
            ("path = \"/socket.io\"", "socketio.path"),
            ("ping_interval_ms = 0", "socketio.ping_interval_ms"),
            ("recovery_namespaces = [\"/other\"]", "socketio.recovery_namespaces"),
            (
                "recovery_namespaces = [\"/chat\"]\nrecovery_bytes_max = 1000000",
                "socketio.outbox_bytes_max",
            ),
            (
                "recovery_namespaces = [\"/chat\"]\nrecovery_packets_max = 5000",
                "socketio.outbox_packets_max",
            ),
        ] {
            check_refused(&format!("{auth}{line}"), expect);
        }
    }

    #[test]
    fn what_is_bound_to_a_place_can_be_reached_there() {
        let auth = "[auth]\nsecret = \"0123456789012345678901234567890123456789\"\n";
        let routes = |place: &str| format!("{auth}[[http.routes]]\nplugin = \"shop\"\n{place}\n");
        let dialect = |place: &str| format!("{auth}[[socketio.dialects]]\nnamespace = \"/shop\"\nplugin = \"shop\"\n{place}\n");
        for (key, bound) in [("http.routes[0]", &routes as &dyn Fn(&str) -> String), ("socketio.dialects[0]", &dialect)] {
            check_refused(&bound("port = 8000"), &format!("{key}.port = 8000"));
            check_refused(&bound("host = \"a.example:8000\""), &format!("{key}.host = \"a.example:8000\""));
            for place in ["port = 3001", "host = \"a.example\"", "port = 3001\nhost = \"[::1]\""] {
                with_file(&bound(place), &[]).expect("readable").settings.check().expect("good");
            }
            let also = format!("{}[server]\nlisten_also = [\"127.0.0.1:8000\"]", bound("port = 8000"));
            with_file(&also, &[]).expect("readable").settings.check().expect("good");
        }
    }

    #[test]
    fn a_message_must_fit_a_transaction() {
        check_refused(
            "[auth]\nsecret = \"x\"\n[limits]\ncontent_bytes_max = 1000000",
            "limits.content_bytes_max",
        );
    }

    #[test]
    fn a_filter_must_be_one() {
        check_refused("[auth]\nsecret = \"x\"\n[log]\nfilter = \"a=b=c\"", "log.filter");
    }
}
