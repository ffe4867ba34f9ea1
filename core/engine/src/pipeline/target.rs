//! Where a command takes its turn.

use haggle_model::{Address, CommandId, ConversationId};

use crate::{Command, Inner, NewConversation, Request, To, conversation::Turn, inner::PROBES_MAX};

/// Where a command takes its turn.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) id: ConversationId,
    /// Of conversations that may have to be created: what the key was made from.
    pub(super) address: Option<Address>,
    pub(super) attempt: u32,
}

pub(super) fn target(engine: &Inner, request: &Request) -> Target {
    let existing = |id| Target {
        id,
        address: None,
        attempt: 0,
    };
    let by = |address: Address| Target {
        id: engine.keys.key(&address),
        address: Some(address),
        attempt: 0,
    };
    let me = &request.actor.user;
    match &request.command {
        Command::Send {
            to: To::Conversation(id), ..
        } => existing(*id),
        Command::Send { to: To::User(user), .. } | Command::Block { user, .. } => by(Address::direct(me, user)),
        Command::Edit { message, .. } | Command::Delete { message, .. } | Command::React { message, .. } => existing(message.conversation),
        Command::CreateConversation(new) => by(new_address(engine, request, new)),
        Command::UpdateConversation { conversation, .. }
        | Command::CloseConversation { conversation, .. }
        | Command::AddParticipant { conversation, .. }
        | Command::RemoveParticipant { conversation, .. }
        | Command::SetRole { conversation, .. }
        | Command::Call {
            conversation: Some(conversation),
            ..
        } => existing(*conversation),
        Command::UpdateProfile { user, .. } => by(Address::Personal(user.clone())),
        Command::Call { conversation: None, .. }
        | Command::Archive { .. }
        | Command::Hide { .. }
        | Command::HideMessage { .. }
        | Command::Mute { .. }
        | Command::ReadNotification { .. }
        | Command::ReadAllNotifications => by(Address::Personal(me.clone())),
    }
}

fn new_address(engine: &Inner, request: &Request, new: &NewConversation) -> Address {
    let me = &request.actor.user;
    match new {
        NewConversation::Direct { with } => Address::direct(me, with),
        NewConversation::Group { .. } => {
            let id = match &request.client_id {
                Some(client_id) => CommandId::of_client(me, ConversationId(0), client_id),
                None => engine.fresh_command(),
            };
            Address::Group(me.clone(), id)
        }
        NewConversation::Context {
            owner,
            context_type,
            context_id,
            ..
        } => crate::context_address(owner, context_type, context_id),
        NewConversation::Broadcast { name } => Address::Broadcast(name.clone()),
    }
}

impl Target {
    /// The next key, when a stranger stands at this one.
    pub(super) fn probe(&self, turn: &Turn) -> Option<Target> {
        let address = self.address.as_ref()?;
        let stranger = turn
            .conversation
            .with_state(|state| state.address().is_some_and(|there| there != address));
        let attempt = self.attempt + 1;
        (stranger && attempt <= PROBES_MAX).then(|| Target {
            id: turn.engine.keys.key(address).probe(attempt),
            address: Some(address.clone()),
            attempt,
        })
    }
}
