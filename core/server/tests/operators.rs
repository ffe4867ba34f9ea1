//! The operators' listener of the real binary: metrics, probes, admin API, drain.

mod common;

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use common::{Server, haggle, request, stdout, wait};

fn server() -> (tempfile::TempDir, Server) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(dir.path(), &[]);
    (dir, server)
}

fn token(data: &Path, user: &str, roles: &[&str]) -> String {
    let mut args = vec!["token", user, "--data", data.to_str().expect("a plain path")];
    roles.iter().for_each(|role| args.extend(["--role", role]));
    stdout(&args)
}

/// Names of a Prometheus page by their `# TYPE` lines.
fn rendered(page: &str) -> BTreeSet<String> {
    page.lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned))
        .collect()
}

/// Names of the tables of METRICS.md.
fn documented() -> BTreeSet<String> {
    include_str!("../../../docs/METRICS.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next().map(str::to_owned))
        .collect()
}

/// Those that appear when a plugin is first loaded, or observes something.
fn of_plugins() -> BTreeSet<String> {
    haggle_host::metrics::DESCRIBED.iter().map(|(_, name, _, _)| (*name).to_owned()).collect()
}

#[test]
fn every_metric_is_there_from_the_start_and_documented() {
    let (_dir, server) = server();
    let (rendered, documented, of_plugins) = (rendered(&server.ask("GET", "/metrics", &[]).body), documented(), of_plugins());
    let undocumented: Vec<_> = rendered.union(&of_plugins).filter(|name| !documented.contains(*name)).collect();
    assert!(undocumented.is_empty(), "not in docs/METRICS.md: {undocumented:?}");
    let missing: Vec<_> = documented
        .iter()
        .filter(|name| !rendered.contains(*name) && !of_plugins.contains(*name))
        .collect();
    assert!(missing.is_empty(), "in docs/METRICS.md, but not registered at the start: {missing:?}");
}

#[test]
#[cfg(target_os = "linux")]
fn an_idle_connection_takes_no_share_of_a_huge_page() {
    let (_dir, server) = server();
    assert_eq!(server.process_status("THP_enabled"), "0");
}

#[test]
fn alerts_and_dashboard_name_metrics_that_exist() {
    let documented = documented();
    for file in [
        include_str!("../../../config/deploy/prometheus/rules.yml"),
        include_str!("../../../config/deploy/grafana/haggle.json"),
    ] {
        let words = file.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for name in words.filter(|word| (word.starts_with("haggle_") || word.starts_with("process_")) && *word != "haggle_") {
            let family = name.strip_suffix("_bucket").unwrap_or(name);
            assert!(documented.contains(family), "{name} is no metric");
        }
    }
}

#[test]
fn every_alert_has_a_runbook() {
    let operations = include_str!("../../../docs/OPERATIONS.md");
    let rules = include_str!("../../../config/deploy/prometheus/rules.yml");
    let anchors: Vec<_> = rules
        .lines()
        .filter_map(|line| line.split_once("OPERATIONS.md#").map(|(_, anchor)| anchor))
        .collect();
    assert_eq!(anchors.len(), rules.matches("- alert:").count(), "one runbook for each alert");
    for anchor in anchors {
        assert!(
            operations.contains(&format!("<a id=\"{anchor}\"></a>")),
            "docs/OPERATIONS.md has no #{anchor}"
        );
    }
}

#[test]
fn probes_answer_without_a_token() {
    let (_dir, server) = server();
    assert_eq!(server.ask("GET", "/livez", &[]).status, 200);
    let ready = server.ask("GET", "/readyz", &[]);
    assert_eq!((ready.status, ready.body.as_str()), (200, "ready\n"));
    let verbose: serde_json::Value = serde_json::from_str(&server.ask("GET", "/readyz?verbose", &[]).body).expect("JSON");
    assert_eq!(
        (verbose["status"].as_str(), verbose["checks"]["store"]["durability"].as_str()),
        (Some("ready"), Some("synced"))
    );
    let metrics = server.ask("GET", "/metrics", &[]);
    assert!(metrics.head.contains("content-type: text/plain; version=0.0.4"), "{}", metrics.head);
    assert!(metrics.body.contains("haggle_ready 1\n"));
}

#[test]
fn admin_writes_need_an_administrator_and_an_allowed_host() {
    let (dir, server) = server();
    let bearer = |user: &str, roles: &[&str]| format!("Bearer {}", token(dir.path(), user, roles));
    let (admin, user) = (bearer("root", &["admin"]), bearer("ann", &[]));
    let check = |method: &str, path: &str, head: &[(&str, &str)], status: u16| {
        let answer = server.ask(method, path, head);
        assert_eq!(answer.status, status, "{method} {path} with {} headers: {}", head.len(), answer.body);
        assert!(answer.head.contains("application/problem+json"), "{}", answer.head);
    };
    for (method, path) in [
        ("POST", "/admin/plugins/x/reload"),
        ("PUT", "/admin/plugins/x"),
        ("DELETE", "/admin/plugins/x"),
        ("POST", "/admin/deliveries/7/replay"),
        ("DELETE", "/admin/deliveries/7"),
    ] {
        check(method, path, &[], 401);
        check(method, path, &[("authorization", "Bearer nonsense")], 401);
        check(method, path, &[("authorization", &user)], 403);
        check(method, path, &[("authorization", &admin), ("host", "evil.example")], 403);
        check(method, path, &[("authorization", &admin)], if method == "PUT" { 400 } else { 404 });
    }
    assert_eq!(server.ask("GET", "/admin/plugins", &[]).body, "{\"plugins\":[]}");
    assert_eq!(server.ask("GET", "/admin/deliveries", &[]).body, "{\"deliveries\":[],\"next\":null}");
}

#[test]
fn a_token_of_the_dev_key_opens_the_clients_interface() {
    let (dir, server) = server();
    let bearer = format!("Bearer {}", token(dir.path(), "ann", &[]));
    assert_eq!(
        request(server.clients, "GET", "/api/conversations", &[("authorization", &bearer)], "").status,
        200
    );
    assert_eq!(request(server.clients, "GET", "/api/conversations", &[], "").status, 401);
}

#[test]
fn logs_hold_neither_tokens_nor_contents() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut server = Server::start(dir.path(), &[("HAGGLE__LOG__FILTER", "trace")]);
    let token = token(dir.path(), "ann", &[]);
    let bearer = format!("Bearer {token}");
    let head = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let conversation = request(
        server.clients,
        "POST",
        "/api/conversations",
        &head,
        r#"{"type":"direct","participants":["bob"]}"#,
    );
    let id = serde_json::from_str::<serde_json::Value>(&conversation.body).expect("JSON")["_id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let sent = request(
        server.clients,
        "POST",
        &format!("/api/conversations/{id}/messages"),
        &head,
        r#"{"content":"a plain secret"}"#,
    );
    assert_eq!(sent.status, 201, "{}", sent.body);
    server.signal("TERM");
    assert_eq!(server.ended().code(), Some(0));
    let log = server.whole_log();
    let signature = token.rsplit('.').next().expect("three parts");
    assert!(log.contains("\"drained\""), "the whole log is here");
    // The bytes of the transport are below us: what hyper and others say at `trace` is theirs.
    let ours: String = log.lines().filter(|line| line.contains("\"target\":\"haggle")).collect();
    assert!(!ours.contains("a plain secret") && !ours.contains(signature));
}

#[test]
fn a_drain_tells_clients_and_ends_with_0() {
    let (dir, mut server) = server();
    let url = format!("ws://{}/v1/ws", server.clients);
    let mut client = haggle(&["connect", "--follow", "--url", &url, "--token", &token(dir.path(), "ann", &[])])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut lines = BufReader::new(client.stdout.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("\"t\":\"heads\"")), "the client is connected");
    let start = Instant::now();
    server.signal("TERM");
    let bye = lines.find(|line| line.contains("\"t\":\"bye\"")).expect("the client is told");
    assert!(bye.contains("4001") && bye.contains("\"after\""), "{bye}");
    assert_eq!(server.ended().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(wait(&mut client).code(), Some(0), "a planned end is no failure");
}

#[test]
fn readiness_goes_first_and_a_second_signal_ends_at_once() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut server = Server::start(dir.path(), &[("HAGGLE__DRAIN__DELAY_MS", "8000")]);
    server.signal("TERM");
    let start = Instant::now();
    while server.ask("GET", "/readyz", &[]).status != 503 {
        assert!(start.elapsed() < Duration::from_secs(5), "not draining");
    }
    assert_eq!(server.ask("GET", "/readyz", &[]).body, "draining\n");
    assert_eq!(server.ask("GET", "/livez", &[]).status, 200);
    let start = Instant::now();
    server.signal("INT");
    assert_eq!(server.ended().code(), Some(1));
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[test]
fn what_was_acknowledged_is_there_after_kill_9() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut server = Server::start(dir.path(), &[]);
    let bearer = format!("Bearer {}", token(dir.path(), "ann", &[]));
    let head = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let made = request(
        server.clients,
        "POST",
        "/api/conversations",
        &head,
        r#"{"type":"direct","participants":["bob"]}"#,
    );
    let path = format!(
        "/api/conversations/{}/messages",
        serde_json::from_str::<serde_json::Value>(&made.body).expect("JSON")["_id"]
            .as_str()
            .expect("an id")
    );
    assert_eq!(request(server.clients, "POST", &path, &head, r#"{"content":"kept"}"#).status, 201);
    server.signal("KILL");
    server.ended();
    let start = Instant::now();
    let server = Server::start(dir.path(), &[]);
    assert!(start.elapsed() < Duration::from_secs(2), "serving again took {:?}", start.elapsed());
    let page = request(server.clients, "GET", &path, &head, "");
    assert!(page.body.contains("\"kept\""), "{}", page.body);
}
