//! The promises of `FakeHost` that plugins' tests rest on.

use haggle_sdk::serde_json::{Value, json as value};

use haggle_sdk::{prelude::*, test::Harness};

/// Does what its commands are named after.
#[derive(Default)]
struct Probe;

impl Command for Probe {
    fn command(&mut self, _call: &Call, name: &str, payload: &str) -> Result<String, Rejection> {
        let keys: Vec<String> = json::payload(payload)?;
        let done = match name {
            "reserve" => kv_global::reserve(&keys, b"me")?,
            "reserve_twice" => kv_global::reserve(&keys, b"me")? && kv_global::reserve(&keys, b"me")?,
            "reserve_and_fail" => {
                assert!(kv_global::reserve(&keys, b"me")?);
                kv::set("mine", b"x")?;
                events::emit("x.probe.done", &value!({}))?;
                metrics::count("tried");
                return Err(Rejection::new("no", "no"));
            }
            "release" => {
                kv_global::release(&keys)?;
                // Not before the commit.
                kv_global::get(&keys[0])?.is_some()
            }
            "add" | "add_and_fail" => {
                let before = kv_global::get(&keys[0])?;
                kv_global::add(&keys[0], keys[1].parse().expect("a number"))?;
                if name == "add_and_fail" {
                    return Err(Rejection::new("no", "no"));
                }
                kv_global::get(&keys[0])? != before
            }
            "users" => users::get("alice")?.is_some(),
            "since" => return Ok(json::text(&since(&keys[0])?)?),
            _ => return Err(Rejection::new("unknown_command", name)),
        };
        Ok(json::text(&done)?)
    }
}

impl Http for Probe {
    fn http(&mut self, _call: &Call, request: HttpRequest) -> HttpResponse {
        let key = request.param("key");
        let before = kv::get(key).and_then(|before| kv::set(key, b"x").map(|()| before.is_some()));
        HttpResponse::json(200, &before.expect("a route has keys of the plugin's own"))
    }
}

/// Since when everybody is in a conversation.
fn since(conversation: &str) -> Result<Vec<u64>, Error> {
    Ok(participants::list(conversation)?.iter().map(|place| place.joined_at_ms).collect())
}

haggle_sdk::plugin! { Probe, hooks: [command, http], caps: [kv, kv_global, events, metrics, participants] }

fn run(app: &mut Harness<Probe>, conversation: &str, name: &str, keys: &[&str]) -> Result<Value, String> {
    app.command("alice", conversation, name, &keys).map_err(|rejection| rejection.code)
}

#[test]
fn a_reservation_is_all_or_none_and_belongs_to_its_command() {
    let mut app = Harness::<Probe>::new();
    let (one, other) = (app.direct("alice", "bob"), app.direct("alice", "carol"));
    assert_eq!(run(&mut app, &one, "reserve_twice", &["a", "b"]), Ok(value!(true)));
    assert_eq!(run(&mut app, &other, "reserve", &["b", "c"]), Ok(value!(false)));
    assert_eq!(app.global_keys(), ["a", "b"]);
    assert_eq!(run(&mut app, &one, "release", &["a", "b"]), Ok(value!(true)));
    assert_eq!(run(&mut app, &other, "reserve", &["b", "c"]), Ok(value!(true)));
}

#[test]
fn who_says_no_has_written_nothing() {
    let mut app = Harness::<Probe>::new();
    let conversation = app.direct("alice", "bob");
    assert_eq!(run(&mut app, &conversation, "reserve_and_fail", &["a"]), Err("no".into()));
    assert_eq!((app.global_keys(), app.kv_keys(&conversation), app.emitted()), (vec![], vec![], vec![]));
    assert_eq!(app.counter("tried"), 1);
}

#[test]
fn what_the_macro_does_not_name_is_denied() {
    let mut app = Harness::<Probe>::new();
    let conversation = app.direct("alice", "bob");
    assert_eq!(run(&mut app, &conversation, "users", &[]), Err("denied".into()));
}

#[test]
fn keys_expire_by_the_tests_clock() {
    let mut app = Harness::<Probe>::new();
    let conversation = app.direct("alice", "bob");
    app.within(&conversation, || kv::set_for("k", b"v", 10)).unwrap();
    app.advance_s(9).unwrap();
    assert_eq!(app.kv(&conversation, "k"), Some(b"v".to_vec()));
    app.advance_s(1).unwrap();
    assert_eq!(app.kv(&conversation, "k"), None);
}

#[test]
fn who_is_added_twice_is_in_since_the_first_time() {
    let mut app = Harness::<Probe>::new();
    let conversation = app.group(&["alice", "bob"]);
    app.advance_s(10).unwrap();
    app.join("alice", &conversation, "bob").unwrap();
    app.join("alice", &conversation, "carol").unwrap();
    let since = run(&mut app, &conversation, "since", &[&conversation]).unwrap();
    let start = haggle_sdk::test::START_MS;
    assert_eq!(since, value!([start, start, start + 10_000]));
}

#[test]
fn routes_have_keys_of_the_plugins_own() {
    let mut app = Harness::<Probe>::new();
    let conversation = app.direct("alice", "bob");
    let mut ask = || {
        let request = HttpRequest {
            params: vec![("key".into(), "k".into())],
            ..HttpRequest::default()
        };
        app.http("alice", request).body
    };
    assert_eq!((ask(), ask()), (b"false".to_vec(), b"true".to_vec()));
    assert_eq!(app.kv(&conversation, "k"), None);
}

#[test]
fn what_is_added_counts_after_the_handler_and_only_if_it_ends_well() {
    let mut app = Harness::<Probe>::new();
    let conversation = app.direct("alice", "bob");
    for by in ["5", "-7"] {
        assert_eq!(run(&mut app, &conversation, "add", &["n", by]), Ok(value!(false)), "not before");
        app.within(&conversation, || kv_global::delete("other")).unwrap();
    }
    assert_eq!(run(&mut app, &conversation, "add_and_fail", &["n", "100"]), Err("no".into()));
    assert_eq!(app.global("n"), Some(b"-2".to_vec()));
    app.within(&conversation, || kv_global::add("n", i64::MIN)).unwrap();
    assert_eq!(app.global("n"), Some(i64::MIN.to_string().into_bytes()), "it stays within its bounds");
}

#[test]
fn without_a_host_every_question_is_unavailable() {
    assert!(matches!(kv::get("k"), Err(Error::Unavailable(_))));
    assert_eq!(config::get("k"), None);
}

/// Answers with messages and groups that are others' than those it was given.
#[derive(Default)]
struct Usurper;

impl BeforeMessage for Usurper {
    fn before_message(&mut self, _call: &Call, draft: Draft) -> Decision {
        let content = draft.content.to_uppercase();
        let client_message_id = Some("mine".into());
        Decision::Replace(Draft {
            sender_id: "mallory".into(),
            client_message_id,
            ..Draft::text("elsewhere", content)
        })
    }
}

impl BeforeConversation for Usurper {
    fn before_conversation(&mut self, _call: &Call, _draft: ConversationDraft) -> ConversationDecision {
        ConversationDecision::Replace(ConversationDraft::default())
    }
}

haggle_sdk::plugin! { Usurper, hooks: [before_message, before_conversation] }

#[test]
fn whose_it_is_and_where_is_not_a_plugins_to_change() {
    let mut app = Harness::<Usurper>::new();
    let draft = ConversationDraft {
        kind: "group".into(),
        participants: vec!["bob".into()],
        ..ConversationDraft::default()
    };
    let group = app.create_conversation("alice", draft).unwrap();
    assert_eq!(app.conversation(&group).unwrap().kind, "group");
    assert_eq!(app.members(&group), ["alice", "bob"]);
    let id = app.send("alice", Draft::text(&group, "hi")).unwrap();
    let message = app.message(&id).unwrap();
    assert_eq!((message.content.as_str(), message.sender_id.as_str()), ("HI", "alice"));
    assert_eq!((message.conversation_id, message.client_message_id), (group, None));
}
