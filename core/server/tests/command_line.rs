//! What the command line promises: exit codes, advice, and output that scripts can use.

mod common;

use common::{Server, haggle, output, stdout};

#[track_caller]
fn check_failure(args: &[&str], code: i32, expect: &[&str]) {
    let output = output(args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
    for expect in expect {
        assert!(error.contains(expect), "{args:?}: `{expect}` is missing in:\n{error}");
    }
}

fn data_dir() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data").to_str().expect("a plain path").to_owned();
    (dir, data)
}

#[test]
fn the_version_names_the_commit() {
    let version = stdout(&["--version"]);
    assert!(version.starts_with("haggle 0.") && version.contains("(commit "), "{version}");
}

#[test]
fn help_is_a_page_with_examples() {
    for command in ["serve", "token", "config", "doctor", "plugin", "deliveries", "connect"] {
        let help = stdout(&[command, "--help"]);
        assert!(
            help.contains("Examples:") && help.lines().count() > 10,
            "haggle {command} --help:\n{help}"
        );
    }
    let help = stdout(&["--help"]);
    assert!(help.starts_with("Durable conversations") && help.contains("Exit codes:"), "{help}");
}

#[test]
fn wrong_usage_is_2() {
    check_failure(&["sevre"], 2, &["serve"]);
    check_failure(&["token", "ann", "--expires", "soon"], 2, &["write 45s, 30m, 12h or 7d"]);
}

#[test]
fn wrong_configuration_is_2_and_names_the_key() {
    let (dir, data) = data_dir();
    check_failure(&["serve", "--data", &data], 2, &["auth.secret", "try:", "--dev"]);
    check_failure(
        &["serve", "--data", &data, "--dev", "--listen", "0.0.0.0:0"],
        2,
        &["auth.dev", "server.listen", "try:"],
    );
    let file = dir.path().join("haggle.toml");
    std::fs::write(&file, "[server]\nlissten = \"127.0.0.1:1\"").expect("a file");
    check_failure(
        &["config", "check", "--config", file.to_str().expect("plain")],
        2,
        &["server.lissten", "haggle.toml", "server.listen?"],
    );
    std::fs::write(&file, "[users]\nunknown = \"maybe\"").expect("a file");
    check_failure(
        &["config", "check", "--config", file.to_str().expect("plain")],
        2,
        &["users.unknown", "accept", "reject"],
    );
    check_failure(
        &["config", "check", "--config", "/nowhere.toml"],
        2,
        &["/nowhere.toml", "haggle config default"],
    );
}

#[test]
fn the_printed_default_is_a_valid_file() {
    let (dir, _) = data_dir();
    let file = dir.path().join("haggle.toml");
    std::fs::write(&file, stdout(&["config", "default"])).expect("a file");
    let shown = haggle(&["config", "show", "--config", file.to_str().expect("plain")])
        .env("HAGGLE__AUTH__SECRET", "hunter2-hunter2-hunter2")
        .output();
    let shown = String::from_utf8(shown.expect("the binary runs").stdout).expect("text");
    assert!(
        shown.contains("auth.secret = \"********\"") && shown.contains("# HAGGLE__AUTH__SECRET") && !shown.contains("hunter2"),
        "{shown}"
    );
}

#[test]
fn a_data_directory_in_use_is_3() {
    let (_dir, data) = data_dir();
    let _server = Server::start(data.as_ref(), &[]);
    check_failure(
        &["serve", "--dev", "--data", &data, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"],
        3,
        &["in use", "try:", "--data"],
    );
}

#[test]
fn a_data_directory_that_cannot_be_is_3() {
    check_failure(
        &[
            "serve",
            "--dev",
            "--data",
            "/proc/haggle",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
        ],
        3,
        &["/proc/haggle", "try:"],
    );
}

#[test]
fn an_address_in_use_is_4() {
    let (_dir, data) = data_dir();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    check_failure(
        &["serve", "--dev", "--data", &data, "--listen", &address, "--admin", "127.0.0.1:0"],
        4,
        &["server.listen", &address, "try:"],
    );
}

#[test]
fn no_server_is_5() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port")
        .to_string();
    check_failure(&["plugin", "list", "--admin", &free], 5, &[&free, "try:"]);
}

#[test]
fn a_token_is_alone_on_its_line() {
    let token = stdout(&["token", "ann", "--role", "admin", "--secret", "0123456789abcdef0123456789abcdef"]);
    assert_eq!((token.lines().count(), token.split('.').count()), (1, 3), "{token}");
}

#[test]
fn a_token_without_a_key_says_where_one_comes_from() {
    let (_dir, data) = data_dir();
    check_failure(&["token", "ann", "--data", &data], 2, &["dev.key", "try:", "--secret"]);
}

#[test]
fn the_openapi_document_is_json() {
    let document: serde_json::Value = serde_json::from_str(&stdout(&["openapi"])).expect("JSON");
    assert!(document["openapi"].as_str().expect("a version").starts_with("3.1"));
}

#[test]
fn the_doctor_finds_a_healthy_directory_healthy() {
    let (_dir, data) = data_dir();
    let checked = haggle(&["doctor", "--data", &data])
        .env("HAGGLE__AUTH__SECRET", "0123456789abcdef0123456789abcdef")
        .envs([("HAGGLE__SERVER__LISTEN", "127.0.0.1:0"), ("HAGGLE__SERVER__ADMIN", "127.0.0.1:0")])
        .output()
        .expect("the binary runs");
    let page = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && !page.contains("BAD"), "{page}");
    assert!(page.contains("entries, every checksum right"), "{page}");
}

#[test]
fn the_doctor_says_what_to_do() {
    let checked = haggle(&["doctor", "--data", "/proc/haggle"]).output().expect("the binary runs");
    let page = String::from_utf8_lossy(&checked.stdout);
    assert_eq!(checked.status.code(), Some(1), "{page}");
    assert!(
        page.contains("BAD   data directory") && page.contains("try: make server.data_dir"),
        "{page}"
    );
}
