//! Who is told: participants other than the one who did it, who are not looking and do not mind.

use haggle_sdk::prelude::*;
use serde_json::{Map, Value, json};

use crate::{settings::Settings, topic::Topic};

/// What one user is told.
pub(crate) struct Told {
    pub topic: Topic,
    pub notification: Notification,
}

impl Told {
    /// Of a message, whose text is joined on reading.
    pub(crate) fn of_message(topic: Topic, title: String, message: &Message, collapse: String) -> Told {
        let data = json!({
            "conversationId": message.conversation_id,
            "messageId": message.id,
            "senderId": message.sender_id,
            "kind": message.kind,
        });
        Told::new(topic, title, data, Some(message.id.clone()), collapse)
    }

    pub(crate) fn new(topic: Topic, title: String, data: Value, message_id: Option<String>, collapse: String) -> Told {
        let notification = Notification {
            topic: topic.as_str().into(),
            title,
            body: String::new(),
            data: Some(data.to_string()),
            message_id,
            collapse: Some(collapse),
        };
        Told { topic, notification }
    }
}

/// The participants who have something to learn from a new message: not its sender, and not who has read it by now. Nobody in a
/// conversation that is too large.
pub(crate) fn of(settings: &Settings, message: &Message) -> Result<Vec<Participant>, Error> {
    let mut participants = participants::list(&message.conversation_id)?;
    participants.retain(|participant| participant.user_id != message.sender_id);
    if participants.len() > settings.recipients_max {
        metrics::count("skipped_large");
        return Ok(Vec::new());
    }
    participants.retain(|participant| participant.read_seq < message.seq);
    Ok(participants)
}

/// Tells a user, unless they are looking or do not want to know. Returns whether it did.
pub(crate) fn tell(user_id: &str, conversation_id: &str, told: Told) -> Result<bool, Error> {
    if !wants(user_id, conversation_id, told.topic)? {
        return Ok(false);
    }
    notifications::push(user_id, &told.notification)?;
    metrics::count("pushed");
    Ok(true)
}

/// Whether a user is to be told of this now.
pub(crate) fn wants(user_id: &str, conversation_id: &str, topic: Topic) -> Result<bool, Error> {
    if users::watching(user_id, conversation_id)? {
        metrics::count("not_told_watching");
        return Ok(false);
    }
    let preferences = match users::get(user_id)? {
        // Preferences that are no object are none: a broken profile must not hold up the conversation's notifications.
        Some(user) => user.preferences_map().unwrap_or_default(),
        None => Map::new(),
    };
    let wants = allows(&preferences, conversation_id, topic);
    if !wants {
        metrics::count("not_told_preferences");
    }
    Ok(wants)
}

/// `{"muted": true}`, `{"mutedConversations": ["id"]}`, `{"notifications": false}`, `{"notifications": {"CHAT_CREATED": false}}`
/// say no; everything else is yes.
fn allows(preferences: &Map<String, Value>, conversation_id: &str, topic: Topic) -> bool {
    let muted_here = |ids: &Vec<Value>| ids.iter().any(|id| id.as_str() == Some(conversation_id));
    let notifications = preferences.get("notifications");
    let off = notifications.and_then(Value::as_bool) == Some(false);
    let topic_off = notifications.and_then(|topics| topics.get(topic.as_str())).and_then(Value::as_bool) == Some(false);
    let muted = preferences.get("muted").and_then(Value::as_bool) == Some(true);
    !(off || topic_off || muted || preferences.get("mutedConversations").and_then(Value::as_array).is_some_and(muted_here))
}

/// A user's name for display; of a plugin its id.
pub(crate) fn name(user_id: &str) -> Result<String, Error> {
    if let Some(plugin) = user_id.strip_prefix("plugin:") {
        return Ok(plugin.into());
    }
    let name = users::get(user_id)?.and_then(|user| user.name).filter(|name| !name.is_empty());
    Ok(name.unwrap_or_else(|| user_id.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferences_say_no_in_four_ways() {
        let cases = [
            (json!({}), true),
            (json!({"muted": false, "notifications": true}), true),
            (json!({"muted": true}), false),
            (json!({"muted": "yes"}), true),
            (json!({"notifications": false}), false),
            (json!({"notifications": {"MESSAGE_RECEIVED": false}}), false),
            (json!({"notifications": {"MESSAGE_RECEIVED": true, "CHAT_CREATED": false}}), true),
            (json!({"mutedConversations": ["a", "here"]}), false),
            (json!({"mutedConversations": ["elsewhere"]}), true),
            (json!({"mutedConversations": "here"}), true),
        ];
        for (preferences, expected) in cases {
            assert_eq!(
                allows(preferences.as_object().unwrap(), "here", Topic::MessageReceived),
                expected,
                "{preferences}"
            );
        }
    }
}
