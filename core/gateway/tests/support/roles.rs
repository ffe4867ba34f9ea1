//! Who asks, for the tables of role and request: each cell of a table has people and a conversation of its own.

use haggle_engine::{Command, NewConversation};
use haggle_model::ConversationId;

use crate::server::{Server, token, token_with};

/// The code of a refusal, shortened: the columns of a table stay readable.
pub fn short(code: &str, says: &str) -> &'static str {
    match code {
        "unauthenticated" => "auth",
        "token_expired" => "exp",
        // The conversation is found, and no plugin is there to take the command.
        "not_found" if says.starts_with("no active plugin") => "no cmd",
        "not_found" => "404",
        "forbidden" => "403",
        "blocked" => "block",
        "bad_request" => "400",
        "unknown_type" => "type",
        _ => "?",
    }
}

pub fn name(person: &str, cell: usize) -> String {
    format!("{person}-{cell}")
}

/// One cell's own conversation and message in it.
pub async fn scene(server: &Server, role: &str, cell: usize) -> (ConversationId, u32) {
    let person = |who: &str| name(who, cell);
    if role == "blocked" {
        let direct = server.direct(&person("blocked"), &person("blocker")).await;
        let seq = server.say(&person("blocked"), direct, "x").await;
        let block = Command::Block {
            user: person("blocked").as_str().into(),
            blocked: true,
        };
        server.run(&person("blocker"), block).await;
        return (direct, seq);
    }
    let participants = ["sender", "member", "ex"].map(|who| person(who).as_str().into()).to_vec();
    let group = NewConversation::Group {
        participants,
        name: None,
        avatar: None,
    };
    let group = server.run(&person("creator"), Command::CreateConversation(group)).await.conversation;
    let leave = Command::RemoveParticipant {
        conversation: group,
        user: person("ex").as_str().into(),
    };
    server.run(&person("ex"), leave).await;
    (group, server.say(&person("sender"), group, "x").await)
}

pub fn token_of(role: &str, cell: usize) -> String {
    match role {
        "plugin" => token("plugin:shop"),
        "operator" => token_with(&name("operator", cell), &["admin"]),
        "service" => token_with(&name("service", cell), &["service"]),
        _ => token(&name(role, cell)),
    }
}
