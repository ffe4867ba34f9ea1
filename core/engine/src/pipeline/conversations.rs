//! Decisions about conversations and who is in them.

use haggle_model::{Address, ConversationCreated, ConversationKind, ConversationUpdate, ErrorCode, Event, Outgoing, OutgoingItem, Role, UserId};
use haggle_store::{BROADCASTS_MAX, MessageRow};

use super::{
    check::check_update,
    context::{Context, Decided},
};
use crate::{
    NewConversation, Refusal,
    ports::{ConversationDraft, ConversationOp, Hook, ParticipantChange, ParticipantOp},
    scope,
    state::State,
    transaction::{Item, Transaction},
};

/// Where the last message of a conversation is looked for.
const LAST_MESSAGE_AMONG: usize = 20;

/// The first event of a conversation at `address`.
pub(crate) fn created(address: &Address, creator: Option<UserId>) -> Event {
    Event::ConversationCreated(ConversationCreated {
        address: address.clone(),
        creator,
        name: None,
        avatar: None,
        state: None,
    })
}

/// The direct conversation that a message to its address opens.
pub(super) fn opened<'a>(context: &Context<'a>) -> Option<Founding<'a>> {
    let Some(address @ Address::Direct(a, b)) = context.address else {
        return None;
    };
    let is_new = context.state(|state| state.members.is_empty());
    is_new.then(|| Founding {
        address,
        participants: vec![a.clone(), b.clone()],
        roles: Vec::new(),
        update: ConversationUpdate::default(),
    })
}

/// What must come before the message that opens it: the conversation is created, both join.
pub(super) async fn opening(context: &Context<'_>, new: Founding<'_>) -> Result<Transaction, Refusal> {
    must_be_known(context, &new.participants).await?;
    found(context, new).await
}

/// A conversation to be created.
pub(super) struct Founding<'a> {
    address: &'a Address,
    participants: Vec<UserId>,
    /// Of the first participants; the rest are members.
    roles: Vec<Role>,
    /// What it says about itself.
    update: ConversationUpdate,
}

/// Created (unless a block has done that) and joined by everybody, after the before-hooks.
async fn found(context: &Context<'_>, new: Founding<'_>) -> Result<Transaction, Refusal> {
    context.turn.conversation.guarded.lock().state.pending = Some(new.address.clone());
    let kind = new.address.kind();
    let mut update = new.update;
    if context.plan.wants(Hook::BeforeConversation, &context.facts(kind, None)) {
        let draft = ConversationDraft {
            op: ConversationOp::Create,
            kind,
            context: context_name(new.address),
            update,
            participants: new.participants.clone(),
        };
        update = context.plan.before_conversation(context.scope(), draft).await?;
    }
    let actor = &context.actor.user;
    let mut transaction = Transaction::default();
    if context.state(|state| state.row.is_none()) {
        let created = ConversationCreated {
            address: new.address.clone(),
            creator: (!actor.as_str().is_empty()).then(|| actor.clone()),
            name: update.name,
            avatar: update.avatar,
            state: update.state,
        };
        transaction.items.push(Item::new(actor, Event::ConversationCreated(created)));
    }
    let id = context.id();
    for (index, user) in new.participants.into_iter().enumerate() {
        let role = new.roles.get(index).copied().unwrap_or_default();
        if context.plan.wants(Hook::BeforeParticipant, &context.facts(kind, None)) {
            context
                .plan
                .before_participant(
                    context.scope(),
                    ParticipantChange {
                        op: ParticipantOp::Join,
                        user: user.clone(),
                        role,
                    },
                )
                .await?;
        }
        let started = Outgoing::Personal(Event::MembershipStarted(id));
        transaction.effects.outgoing.push(OutgoingItem {
            to: Address::Personal(user.clone()),
            what: started,
            origin: context.origin.clone(),
        });
        transaction.items.push(Item::new(actor, Event::ParticipantJoined { user, role }));
    }
    Ok(transaction)
}

fn context_name(address: &Address) -> Option<String> {
    match address {
        Address::Context(owner, context_type, id) => Some(format!("{owner}/{context_type}:{id}")),
        _ => None,
    }
}

/// Installations may refuse participants that were never seen.
async fn must_be_known(context: &Context<'_>, users: &[UserId]) -> Result<(), Refusal> {
    if !context.engine().reject_unknown_users {
        return Ok(());
    }
    for user in users {
        if context.engine().store.user(user).await?.is_none() {
            return Err(Refusal::bad(
                "/participants",
                format!("user {user} is not known here (users.unknown = \"reject\")"),
            ));
        }
    }
    Ok(())
}

pub(super) async fn create(context: &Context<'_>, new: NewConversation) -> Result<Decided, Refusal> {
    let address = context.address.expect("a new conversation has an address");
    let actor = context.actor;
    if let NewConversation::Context { owner, .. } = &new
        && !(actor.is_admin() || actor.user.as_str().strip_prefix("plugin:") == Some(owner))
    {
        return Err(Refusal::forbidden("only the owner of a context, an admin or a service token creates it"));
    }
    if matches!(new, NewConversation::Broadcast { .. }) && !actor.is_admin() {
        return Err(Refusal::forbidden("only an admin or a service token creates a broadcast"));
    }
    let there = context.state(|state| state.row.is_some() && (!state.members.is_empty() || !matches!(address, Address::Direct(..))));
    if there {
        return Ok(Decided::UNCHANGED);
    }
    if matches!(new, NewConversation::Broadcast { .. }) && context.engine().store.broadcasts(BROADCASTS_MAX).await?.len() == BROADCASTS_MAX {
        return Err(Refusal::new(
            ErrorCode::TooLarge,
            format!("there are {BROADCASTS_MAX} broadcasts, and everybody's list holds them all"),
        ));
    }
    let mut roles = Vec::new();
    let mut update = ConversationUpdate::default();
    let participants = match new {
        NewConversation::Direct { with } => vec![actor.user.clone(), with],
        NewConversation::Group { participants, name, avatar } => {
            roles.push(Role::Admin);
            (update.name, update.avatar) = (name, avatar);
            once_each(Some(&actor.user), &participants)
        }
        NewConversation::Context {
            participants, name, state, ..
        } => {
            (update.name, update.state) = (name, state);
            once_each(None, &participants)
        }
        NewConversation::Broadcast { name } => {
            update.name = Some(name);
            Vec::new()
        }
    };
    must_be_known(context, &participants).await?;
    let transaction = found(
        context,
        Founding {
            address,
            participants,
            roles,
            update,
        },
    )
    .await?;
    context.join(transaction).await
}

pub(super) fn once_each(first: Option<&UserId>, users: &[UserId]) -> Vec<UserId> {
    let mut once: Vec<UserId> = first.into_iter().cloned().collect();
    for user in users {
        if !once.contains(user) {
            once.push(user.clone());
        }
    }
    once
}

/// Group and context: its admins, and admins of the installation.
fn may_manage(context: &Context<'_>) -> Result<(), Refusal> {
    context.state(|state| {
        let actor = context.actor;
        let member = state.members.get(&actor.user);
        match (state.address().map(Address::kind), member) {
            (None, _) => Err(Refusal::not_found()),
            (Some(ConversationKind::Personal), _) => Err(Refusal::not_found()),
            (Some(ConversationKind::Direct), Some(_)) => Err(Refusal::forbidden("a direct conversation has no admins")),
            (Some(ConversationKind::Direct), None) => Err(Refusal::not_found()),
            (Some(_), Some(member)) if member.role == Role::Admin => Ok(()),
            (Some(_), _) if actor.is_admin() => Ok(()),
            (Some(_), Some(_)) => Err(Refusal::forbidden("only an admin of the conversation does this")),
            (Some(_), None) => Err(Refusal::not_found()),
        }
    })
}

pub(super) async fn update_conversation(context: &Context<'_>, mut update: ConversationUpdate) -> Result<Decided, Refusal> {
    may_manage(context)?;
    let kind = context.kind();
    if context.plan.wants(Hook::BeforeConversation, &context.facts(kind, None)) {
        let context_name = context.state(|state| state.address().and_then(context_name));
        let draft = ConversationDraft {
            op: ConversationOp::Update,
            kind,
            context: context_name,
            update,
            participants: Vec::new(),
        };
        update = context.plan.before_conversation(context.scope(), draft).await?;
    }
    check_update(context.engine(), &update)?;
    let item = Item::new(&context.actor.user, Event::ConversationUpdated(update));
    let item = match last_message(context).await? {
        Some(last) => item.changing(last),
        None => item,
    };
    context.join(Transaction::of(item)).await
}

/// The newest countable message that is not deleted, among the newest few.
async fn last_message(context: &Context<'_>) -> Result<Option<MessageRow>, Refusal> {
    let newest = scope::present::messages(context.engine(), &context.turn.conversation, None, LAST_MESSAGE_AMONG).await?;
    Ok(newest.into_iter().find(|row| row.content.countable && row.deleted_at.is_none()))
}

pub(super) async fn close(context: &Context<'_>, closed: bool, reason: Option<String>) -> Result<Decided, Refusal> {
    may_manage(context)?;
    if context.state(State::is_closed) == closed {
        return Ok(Decided::UNCHANGED);
    }
    let kind = context.kind();
    if context.plan.wants(Hook::BeforeConversation, &context.facts(kind, None)) {
        let op = if closed { ConversationOp::Close } else { ConversationOp::Reopen };
        let draft = ConversationDraft {
            op,
            kind,
            context: None,
            update: ConversationUpdate::default(),
            participants: Vec::new(),
        };
        context.plan.before_conversation(context.scope(), draft).await?;
    }
    let event = if closed {
        Event::ConversationClosed(reason)
    } else {
        Event::ConversationReopened
    };
    context.join(Transaction::of(Item::new(&context.actor.user, event))).await
}

pub(super) async fn add(context: &Context<'_>, user: UserId, role: Role) -> Result<Decided, Refusal> {
    may_manage(context)?;
    if context.kind() == ConversationKind::Broadcast {
        return Err(Refusal::forbidden("everybody reads a broadcast; it has no participants"));
    }
    let (joined, count) = context.state(|state| (state.members.contains_key(&user), state.members.len()));
    if joined {
        return Ok(Decided::UNCHANGED);
    }
    let max = context.engine().limits.participants_max;
    if count >= max {
        return Err(Refusal::new(ErrorCode::TooLarge, format!("limits.participants_max is {max}")));
    }
    must_be_known(context, std::slice::from_ref(&user)).await?;
    participant(
        context,
        ParticipantOp::Join,
        user.clone(),
        role,
        Event::ParticipantJoined { user, role },
        Some(Event::MembershipStarted(context.id())),
    )
    .await
}

pub(super) async fn remove(context: &Context<'_>, user: UserId) -> Result<Decided, Refusal> {
    let itself = user == context.actor.user;
    let member = context.state(|state| state.members.get(&user).map(|member| member.role));
    let kind = context.kind();
    if itself && member.is_some() {
        if kind == ConversationKind::Direct {
            return Err(Refusal::forbidden(
                "a direct conversation cannot be left; hide it or block the other user",
            ));
        }
    } else {
        may_manage(context)?;
    }
    let role = member.ok_or_else(Refusal::not_found)?;
    participant(
        context,
        ParticipantOp::Leave,
        user.clone(),
        role,
        Event::ParticipantLeft { user },
        Some(Event::MembershipEnded(context.id())),
    )
    .await
}

pub(super) async fn set_role(context: &Context<'_>, user: UserId, role: Role) -> Result<Decided, Refusal> {
    may_manage(context)?;
    let present = context
        .state(|state| state.members.get(&user).map(|member| member.role))
        .ok_or_else(Refusal::not_found)?;
    if present == role {
        return Ok(Decided::UNCHANGED);
    }
    participant(
        context,
        ParticipantOp::Role,
        user.clone(),
        role,
        Event::ParticipantUpdated { user, role },
        None,
    )
    .await
}

pub(super) async fn participant(
    context: &Context<'_>,
    op: ParticipantOp,
    user: UserId,
    role: Role,
    event: Event,
    personal: Option<Event>,
) -> Result<Decided, Refusal> {
    if context.plan.wants(Hook::BeforeParticipant, &context.facts(context.kind(), None)) {
        context
            .plan
            .before_participant(
                context.scope(),
                ParticipantChange {
                    op,
                    user: user.clone(),
                    role,
                },
            )
            .await?;
    }
    let mut transaction = Transaction::of(Item::new(&context.actor.user, event));
    let outgoing = personal.map(|event| OutgoingItem {
        to: Address::Personal(user),
        what: Outgoing::Personal(event),
        origin: context.origin.clone(),
    });
    transaction.effects.outgoing.extend(outgoing);
    context.join(transaction).await
}

/// A block is in turn with sends of the pair, whether or not they ever talked.
pub(super) fn block(context: &Context<'_>, user: UserId, blocked: bool) -> Result<Decided, Refusal> {
    let address = context.address.expect("a block has the pair's address");
    let me = &context.actor.user;
    let (there, already) = context.state(|state| (state.row.is_some(), state.row.as_ref().is_some_and(|row| row.blocked_by.contains(me))));
    if already == blocked {
        return Ok(Decided::UNCHANGED);
    }
    let mut transaction = Transaction::default();
    if !there {
        transaction.items.push(Item::new(me, created(address, Some(me.clone()))));
    }
    transaction.main = transaction.items.len();
    let event = if blocked {
        Event::UserBlocked { by: me.clone() }
    } else {
        Event::UserUnblocked { by: me.clone() }
    };
    transaction.items.push(Item::new(me, event));
    let listed = Outgoing::Personal(Event::BlockListed { user, blocked });
    transaction.effects.outgoing.push(OutgoingItem {
        to: Address::Personal(me.clone()),
        what: listed,
        origin: Vec::new(),
    });
    Decided::write(transaction)
}
