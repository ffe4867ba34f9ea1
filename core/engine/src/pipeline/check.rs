//! What can be refused without knowing the conversation.

use haggle_model::{ConversationUpdate, ErrorCode, Profile, UserId};

use super::conversations::once_each;
use crate::{Actor, Command, Inner, NewConversation, NewMessage, ProfilePatch, Refusal, Request, To};

/// Bytes of a message's kind.
const KIND_BYTES_MAX: usize = 64;

/// What can be refused without knowing the conversation.
pub(super) fn check_request(engine: &Inner, request: &Request) -> Result<(), Refusal> {
    let limits = &engine.limits;
    if let Some(client_id) = &request.client_id
        && (client_id.is_empty() || client_id.len() > limits.id_bytes_max)
    {
        return Err(Refusal::bad(
            "/clientMessageId",
            format!("an idempotency key has 1 to {} bytes", limits.id_bytes_max),
        ));
    }
    match &request.command {
        Command::Send { to, message } => {
            if let To::User(user) = to {
                check_user(engine, &request.actor.user, user)?;
            }
            check_message(engine, message)
        }
        Command::Edit {
            text: None, metadata: None, ..
        } => Err(Refusal::bad("/content", "an edit changes content or metadata")),
        Command::Edit { text, metadata, .. } => check_text(engine, text.as_deref(), metadata.as_deref()),
        Command::React { emoji: Some(emoji), .. } if emoji.is_empty() || emoji.len() > limits.reaction_bytes_max => Err(Refusal::bad(
            "/reaction",
            format!("a reaction has 1 to {} bytes", limits.reaction_bytes_max),
        )),
        Command::CreateConversation(new) => check_new(engine, &request.actor, new),
        Command::UpdateConversation { update, .. } => check_update(engine, update),
        Command::AddParticipant { user, .. } => check_id(engine, "/userId", user),
        Command::Block { user, .. } => check_user(engine, &request.actor.user, user),
        Command::UpdateProfile { user, patch } => check_profile(engine, &request.actor, user, patch),
        Command::Call { name, payload, .. } => {
            check_size("/name", name, limits.id_bytes_max)?;
            check_size("/data", payload, limits.attributes_bytes_max)
        }
        _ => Ok(()),
    }
}

fn check_size(field: &'static str, text: &str, bytes_max: usize) -> Result<(), Refusal> {
    if text.len() <= bytes_max {
        return Ok(());
    }
    Err(Refusal {
        field: Some(field),
        ..Refusal::new(ErrorCode::TooLarge, format!("{} bytes, the limit is {bytes_max}", text.len()))
    })
}

fn check_id(engine: &Inner, field: &'static str, user: &UserId) -> Result<(), Refusal> {
    let max = engine.limits.id_bytes_max;
    let text = user.as_str();
    if text.is_empty() || text.len() > max || text.starts_with("plugin:") {
        return Err(Refusal::bad(
            field,
            format!("a user id has 1 to {max} bytes and does not start with plugin:"),
        ));
    }
    Ok(())
}

fn check_user(engine: &Inner, me: &UserId, other: &UserId) -> Result<(), Refusal> {
    check_id(engine, "/userId", other)?;
    if me == other {
        Err(Refusal::bad("/userId", "that is you"))
    } else {
        Ok(())
    }
}

fn check_message(engine: &Inner, message: &NewMessage) -> Result<(), Refusal> {
    check_kind(&message.kind)?;
    if message.kind == "system" {
        return Err(Refusal::bad("/type", "\"system\" is not a type that users send"));
    }
    if message.text.is_empty() && message.metadata.is_none() {
        return Err(Refusal::bad("/content", "a message needs content or metadata"));
    }
    check_text(engine, Some(&message.text), message.metadata.as_deref())
}

pub(crate) fn check_kind(kind: &str) -> Result<(), Refusal> {
    if kind.is_empty() || kind.len() > KIND_BYTES_MAX {
        return Err(Refusal::bad("/type", format!("a message's type has 1 to {KIND_BYTES_MAX} bytes")));
    }
    Ok(())
}

pub(crate) fn check_text(engine: &Inner, text: Option<&str>, metadata: Option<&str>) -> Result<(), Refusal> {
    let limits = &engine.limits;
    if let Some(text) = text {
        check_size("/content", text, limits.content_bytes_max)?;
        // Counting characters is only needed where the bytes alone do not settle it.
        if text.len() > limits.content_chars_max && text.chars().count() > limits.content_chars_max {
            let message = format!(
                "{} characters, limits.content_chars_max is {}",
                text.chars().count(),
                limits.content_chars_max
            );
            return Err(Refusal {
                field: Some("/content"),
                ..Refusal::new(ErrorCode::TooLarge, message)
            });
        }
    }
    metadata.map_or(Ok(()), |metadata| check_size("/metadata", metadata, limits.metadata_bytes_max))
}

fn check_new(engine: &Inner, actor: &Actor, new: &NewConversation) -> Result<(), Refusal> {
    match new {
        NewConversation::Direct { with } => check_user(engine, &actor.user, with),
        NewConversation::Group { participants, name, avatar } => {
            check_participants(engine, participants)?;
            check_count(engine, once_each(Some(&actor.user), participants).len())?;
            check_size("/groupName", name.as_deref().unwrap_or(""), engine.limits.name_bytes_max)?;
            check_size("/groupAvatar", avatar.as_deref().unwrap_or(""), engine.limits.name_bytes_max)
        }
        NewConversation::Context {
            owner,
            context_type,
            context_id,
            participants,
            name,
            state,
        } => {
            let named = !owner.is_empty() && owner.len() <= 64 && !context_type.is_empty() && context_type.len() <= 64 && !context_id.is_empty();
            if !named || context_id.len() > engine.limits.id_bytes_max || context_type.contains([':', '/']) {
                return Err(Refusal::bad("/context", "a context is named owner/type:id"));
            }
            check_participants(engine, participants)?;
            check_size("/name", name.as_deref().unwrap_or(""), engine.limits.name_bytes_max)?;
            check_size("/state", state.as_deref().unwrap_or(""), engine.limits.attributes_bytes_max)
        }
        NewConversation::Broadcast { name } if name.is_empty() || name.len() > 64 => {
            Err(Refusal::bad("/name", "a broadcast's name has 1 to 64 bytes"))
        }
        NewConversation::Broadcast { .. } => Ok(()),
    }
}

fn check_count(engine: &Inner, count: usize) -> Result<(), Refusal> {
    let max = engine.limits.participants_max;
    if count > max {
        return Err(Refusal::bad(
            "/participants",
            format!("{count} participants, limits.participants_max is {max}"),
        ));
    }
    Ok(())
}

fn check_participants(engine: &Inner, participants: &[UserId]) -> Result<(), Refusal> {
    check_count(engine, participants.len())?;
    participants.iter().try_for_each(|user| check_id(engine, "/participants", user))
}

pub(super) fn check_update(engine: &Inner, update: &ConversationUpdate) -> Result<(), Refusal> {
    check_size("/name", update.name.as_deref().unwrap_or(""), engine.limits.name_bytes_max)?;
    check_size("/avatar", update.avatar.as_deref().unwrap_or(""), engine.limits.name_bytes_max)?;
    check_size("/state", update.state.as_deref().unwrap_or(""), engine.limits.attributes_bytes_max)
}

fn check_profile(engine: &Inner, actor: &Actor, user: &UserId, patch: &ProfilePatch) -> Result<(), Refusal> {
    check_id(engine, "/id", user)?;
    let own = actor.user == *user;
    let server = actor.user.as_str().is_empty();
    if !own && !actor.is_admin() && !server {
        return Err(Refusal::forbidden("only an admin changes another user's profile"));
    }
    if patch.roles.is_some() && !actor.is_admin() && !server {
        return Err(Refusal::forbidden("only an admin sets roles"));
    }
    check_size("/name", patch.name.as_deref().unwrap_or(""), engine.limits.name_bytes_max)?;
    check_size("/avatar", patch.avatar.as_deref().unwrap_or(""), engine.limits.name_bytes_max)?;
    Ok(())
}

pub(super) fn check_json_of_profile(engine: &Inner, profile: &Profile) -> Result<(), Refusal> {
    let json = [&profile.attributes, &profile.preferences]
        .into_iter()
        .flatten()
        .map(String::len)
        .sum::<usize>();
    let max = engine.limits.attributes_bytes_max;
    if json > max {
        return Err(Refusal::new(
            ErrorCode::TooLarge,
            format!("attributes and preferences of {json} bytes, limits.attributes_bytes_max is {max}"),
        ));
    }
    Ok(())
}
