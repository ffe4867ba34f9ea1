//! New conversations. Who is there from the beginning is seen twice, as part of the new conversation and as somebody who joins;
//! a key `chat:<user>` says who knows.

use haggle_sdk::prelude::*;
use serde_json::json;

use crate::{
    recipient::{self, Told},
    settings::Settings,
    topic::Topic,
};

fn key(user_id: &str) -> String {
    format!("chat:{user_id}")
}

/// A conversation came into being: everybody in it but its creator is told.
pub(crate) fn created(settings: &Settings, conversation: &Conversation) -> Result<(), Error> {
    let title = title(settings, conversation)?;
    // The rest of a very large one are told as they join.
    for who in participants::list(&conversation.id)?.into_iter().take(settings.recipients_max) {
        if conversation.creator.as_ref() == Some(&who.user_id) {
            kv::set(&key(&who.user_id), b"1")?;
        } else {
            tell(conversation, &who.user_id, title.clone())?;
        }
    }
    Ok(())
}

/// Somebody joined: they are told, unless they did it themselves.
pub(crate) fn joined(settings: &Settings, call: &Call, user_id: &str) -> Result<(), Error> {
    if call.actor == user_id || kv::get(&key(user_id))?.is_some() {
        return Ok(());
    }
    match conversations::get(call.conversation()?)? {
        Some(conversation) if conversation.creator.as_deref() != Some(user_id) => {
            let title = title(settings, &conversation)?;
            tell(&conversation, user_id, title)
        }
        _ => Ok(()),
    }
}

/// Somebody left: should they come back, it is new to them again.
pub(crate) fn left(user_id: &str) -> Result<(), Error> {
    kv::delete(&key(user_id))
}

fn title(settings: &Settings, conversation: &Conversation) -> Result<String, Error> {
    let name = match (&conversation.name, &conversation.creator) {
        (Some(name), _) if !name.is_empty() => name.clone(),
        (_, Some(creator)) => recipient::name(creator)?,
        _ => conversation.kind.clone(),
    };
    Ok(settings.title(Topic::ChatCreated, &name))
}

fn tell(conversation: &Conversation, user_id: &str, title: String) -> Result<(), Error> {
    if kv::get(&key(user_id))?.is_some() {
        return Ok(());
    }
    kv::set(&key(user_id), b"1")?;
    let data = json!({ "conversationId": conversation.id, "type": conversation.kind, "createdBy": conversation.creator });
    let told = Told::new(Topic::ChatCreated, title, data, None, format!("chat:{}", conversation.id));
    recipient::tell(user_id, &conversation.id, told)?;
    Ok(())
}
