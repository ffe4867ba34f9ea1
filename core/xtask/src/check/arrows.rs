//! `model <- store <- engine <- gateway, host <- server`: which crate may name which.

use serde_json::Value;

use super::{packages, text};

/// What a crate of ours may use of ours (outside its tests).
const ARROWS: [(&str, &[&str]); 7] = [
    ("haggle-model", &[]),
    ("haggle-store", &["haggle-model"]),
    ("haggle-engine", &["haggle-model", "haggle-store"]),
    ("haggle-host", &["haggle-model", "haggle-store", "haggle-engine"]),
    ("haggle-gateway", &["haggle-model", "haggle-store", "haggle-engine"]),
    ("haggle-sdk", &[]),
    ("haggle-xtask", &[]),
];

/// What a crate must not be able to name, even if something below it uses it.
const FORBIDDEN: [(&str, &[&str]); 4] = [
    ("haggle-model", &["tokio", "serde_json", "hyper", "axum", "wasmtime", "rusqlite"]),
    ("haggle-store", &["serde_json", "hyper", "axum", "wasmtime"]),
    (
        "haggle-engine",
        &[
            "serde_json",
            "hyper",
            "hyper-util",
            "axum",
            "wasmtime",
            "rusqlite",
            "scylla",
            "fastwebsockets",
            "jsonwebtoken",
        ],
    ),
    ("haggle-gateway", &["wasmtime", "rusqlite", "scylla"]),
];

/// Every arrow that points the wrong way.
pub fn problems(metadata: &Value) -> Vec<String> {
    packages(metadata).flat_map(of_package).collect()
}

fn of_package(package: &Value) -> Vec<String> {
    let name = text(package, "name");
    let mut problems = Vec::new();
    for used in normal_dependencies(package) {
        if used.starts_with("haggle-") && !may_use(name, used) {
            problems.push(format!("{name} must not depend on {used}"));
        }
        if list(&FORBIDDEN, name).is_some_and(|forbidden| forbidden.contains(&used)) {
            problems.push(format!("{name} must not be able to name {used}"));
        }
    }
    problems
}

/// Plugins see the SDK only; who is not listed (server, testkit, bench, examples) may use everything.
fn may_use(name: &str, used: &str) -> bool {
    if name.starts_with("haggle-plugin-") {
        return used == "haggle-sdk";
    }
    list(&ARROWS, name).is_none_or(|allowed| allowed.contains(&used))
}

fn list(table: &[(&str, &'static [&'static str])], name: &str) -> Option<&'static [&'static str]> {
    table.iter().find(|(crate_name, _)| *crate_name == name).map(|(_, list)| *list)
}

/// Not those of tests; of builds too.
fn normal_dependencies(package: &Value) -> impl Iterator<Item = &str> {
    let all = package["dependencies"].as_array().into_iter().flatten();
    all.filter(|dependency| dependency["kind"] != "dev")
        .map(|dependency| text(dependency, "name"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(name: &str, used: &str, kind: Option<&str>, problems_expected: usize) {
        let metadata = json!({ "packages": [{ "name": name, "dependencies": [{ "name": used, "kind": kind }] }] });
        assert_eq!(problems(&metadata).len(), problems_expected, "{name} -> {used}");
    }

    #[test]
    fn arrows_point_one_way() {
        check("haggle-engine", "haggle-store", None, 0);
        check("haggle-store", "haggle-engine", None, 1);
        check("haggle-model", "haggle-store", None, 1);
        check("haggle-gateway", "haggle-host", None, 1);
        check("haggle-server", "haggle-host", None, 0);
    }

    #[test]
    fn the_engine_cannot_name_json_or_wasm() {
        check("haggle-engine", "serde_json", None, 1);
        check("haggle-engine", "wasmtime", None, 1);
        check("haggle-engine", "serde_json", Some("build"), 1);
    }

    #[test]
    fn tests_may_use_what_they_like() {
        check("haggle-engine", "serde_json", Some("dev"), 0);
        check("haggle-plugin-service-offers", "haggle-testkit", Some("dev"), 0);
    }

    #[test]
    fn plugins_see_the_sdk_only() {
        check("haggle-plugin-service-offers", "haggle-sdk", None, 0);
        check("haggle-plugin-service-offers", "haggle-model", None, 1);
    }
}
