//! The life of a command: its place in the queue, its turn, its transaction.
//!
//! Every transport ends in [`submit`]; every plugin hangs off [`decide`].

use std::sync::Arc;

use haggle_model::{
    Address, CommandId, Content, ConversationCreated, ConversationId, ConversationKind, ConversationUpdate, Decider, ErrorCode, Event, MessageId,
    Millis, Outgoing, OutgoingItem, PluginId, Profile, Role, SENDER_ROLE_BYTES_MAX, SENDER_ROLES_MAX, Seq, UserId,
};
use haggle_store::{BROADCASTS_MAX, CommandRow, ConversationRow, MessageRow};

use crate::{
    Actor, BUILT_IN_KINDS, Command, Inner, NewConversation, NewMessage, Outcome, ProfilePatch, Refusal, Reply, Request, To,
    commands_seen::Seen,
    conversation::{Turn, Work},
    digest::digest,
    inner::PROBES_MAX,
    marks,
    ports::{Call, ConversationDraft, ConversationOp, Draft, Facts, Hook, Op, ParticipantChange, ParticipantOp, Plan, ReactionChange},
    scope::{self, HandlerScope, content_of},
    state::State,
    transaction::{Item, Stamp, Transaction},
};

/// Where the last message of a conversation is looked for.
const LAST_MESSAGE_AMONG: usize = 20;
/// Bytes of a message's kind.
const KIND_BYTES_MAX: usize = 64;

/// Takes the command's place in its conversation's queue, at once; where nothing waits it is staged before this returns.
pub(crate) fn submit(engine: &Arc<Inner>, request: Request, reply: Reply) {
    submit_known(engine, request, None, reply);
}

/// The same for a command that, unless the client has named it, has this id: sent again, it gets the first answer.
pub(crate) fn submit_as(engine: &Arc<Inner>, request: Request, id: CommandId, reply: Reply) {
    submit_known(engine, request, Some(id), reply);
}

fn submit_known(engine: &Arc<Inner>, request: Request, id: Option<CommandId>, reply: Reply) {
    engine.metrics.commands.increment(1);
    if let Err(refusal) = engine.admit(&request.actor).and_then(|()| check_request(engine, &request)) {
        engine.metrics.refused(refusal.code);
        return reply(Err(refusal));
    }
    let at = target(engine, &request);
    let command = match &request.client_id {
        Some(client_id) => CommandId::of_client(&request.actor.user, at.id, client_id),
        None => id.unwrap_or_else(|| engine.fresh_command()),
    };
    let user = request.actor.user.clone();
    let digest = if request.client_id.is_some() { digest(&request.command) } else { 0 };
    let metrics = engine.metrics.clone();
    let reply: Reply = Box::new(move |answer| {
        if let Err(refusal) = &answer {
            metrics.refused(refusal.code);
        }
        reply(answer);
    });
    let remember = request.client_id.is_some() || id.is_some();
    let of_hour = request.actor.is_limited() && matches!(request.command, Command::Send { .. });
    engine.enter(
        at.id,
        &user,
        CommandWork {
            of_hour,
            plan: engine.hooks.plan(),
            request,
            reply,
            at,
            command,
            digest,
            remember,
            origin: Vec::new(),
            countable: true,
        },
    );
}

/// A command that the log asks for: not limited in rate, known by the id of its item.
/// `countable`: a message that it sends counts as unread.
pub(crate) fn submit_item(engine: &Arc<Inner>, request: Request, command: CommandId, origin: Vec<PluginId>, countable: bool, reply: Reply) {
    let at = target(engine, &request);
    let user = request.actor.user.clone();
    engine.enter(
        at.id,
        &user,
        CommandWork {
            of_hour: false,
            plan: engine.hooks.plan(),
            request,
            reply,
            at,
            command,
            digest: 0,
            remember: true,
            origin,
            countable,
        },
    );
}

/// Where a command takes its turn.
#[derive(Clone, Debug)]
struct Target {
    id: ConversationId,
    /// Of conversations that may have to be created: what the key was made from.
    address: Option<Address>,
    attempt: u32,
}

fn target(engine: &Inner, request: &Request) -> Target {
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

/// What can be refused without knowing the conversation.
fn check_request(engine: &Inner, request: &Request) -> Result<(), Refusal> {
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

fn check_update(engine: &Inner, update: &ConversationUpdate) -> Result<(), Refusal> {
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

fn check_json_of_profile(engine: &Inner, profile: &Profile) -> Result<(), Refusal> {
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

/// A command on its way through its turn.
struct CommandWork {
    /// It takes one of the messages that its sender has in an hour.
    of_hour: bool,
    plan: Arc<dyn Plan>,
    request: Request,
    reply: Reply,
    at: Target,
    command: CommandId,
    digest: u64,
    /// A retry must be recognised.
    remember: bool,
    /// Plugins that led to it, oldest first.
    origin: Vec<PluginId>,
    /// A message that it sends counts as unread.
    countable: bool,
}

impl Work for CommandWork {
    async fn run(self, turn: Turn) {
        if let Some(next) = self.at.probe(&turn) {
            let engine = turn.engine.clone();
            drop(turn);
            let user = self.request.actor.user.clone();
            return engine.enter(next.id, &user, CommandWork { at: next, ..self });
        }
        let CommandWork {
            of_hour,
            plan,
            request,
            reply,
            at,
            command,
            digest,
            remember,
            origin,
            countable,
        } = self;
        if remember {
            match answered(&turn, command, digest).await {
                Ok(None) => {}
                Ok(Some(outcome)) => return turn.conversation.answer(reply, Ok(outcome)),
                Err(refusal) => return turn.conversation.answer(reply, Err(refusal)),
            }
            turn.conversation.attempt_begins(command);
        }
        // Here, since a retry of what was sent takes none.
        if of_hour && let Err(refusal) = turn.engine.rates.take_of_hour(&request.actor.user) {
            return turn.conversation.answer(reply, Err(refusal));
        }
        let now = turn.engine.clock.now();
        let address = at.address.as_ref();
        let context = Context {
            turn: &turn,
            plan: &*plan,
            request: &request,
            address,
            command,
            now,
            origin,
            countable,
            scope: Default::default(),
        };
        let decided = decide(&context).await;
        let scope = context.scope.into_inner();
        let holds = scope.as_ref().is_some_and(HandlerScope::holds);
        let stamp = Stamp {
            command,
            digest,
            remember: remember || holds,
            at: now,
        };
        turn.conversation.guarded.lock().state.pending = None;
        finish(&turn, decided, scope, stamp, reply).await;
    }

    fn refuse(self, refusal: Refusal) {
        (self.reply)(Err(refusal));
    }
}

impl Target {
    /// The next key, when a stranger stands at this one.
    fn probe(&self, turn: &Turn) -> Option<Target> {
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

/// Stages what was decided, or gives the refusal; reservations of a command that is not staged are given back.
async fn finish(turn: &Turn, decided: Result<Decided, Refusal>, scope: Option<HandlerScope>, stamp: Stamp, reply: Reply) {
    let conversation = &turn.conversation;
    match decided {
        Ok(Decided::Write(transaction)) => match conversation.stage(&turn.engine, *transaction, stamp, Some(reply)) {
            Ok(()) => {
                if let Some(scope) = scope {
                    scope.kept();
                }
            }
            Err((refusal, reply)) => {
                if let Some(scope) = scope {
                    scope.release().await;
                }
                if let Some(reply) = reply {
                    conversation.answer(reply, Err(refusal));
                }
            }
        },
        Ok(Decided::Nothing { seq, existed, answer }) => {
            if let Some(scope) = scope {
                scope.release().await;
            }
            let outcome = Outcome {
                conversation: conversation.id,
                seq,
                at: stamp.at,
                duplicate: false,
                existed,
                answer,
            };
            conversation.answer(reply, Ok(outcome));
        }
        Err(refusal) => {
            if let Some(scope) = scope {
                scope.release().await;
            }
            conversation.answer(reply, Err(refusal));
        }
    }
}

/// The stored answer of an earlier copy of the command.
pub(crate) async fn answered(turn: &Turn, command: CommandId, digest: u64) -> Result<Option<Outcome>, Refusal> {
    let row = match turn.conversation.with_state(|state| state.commands.get(command)) {
        Seen::No => None,
        Seen::Yes(row) => Some(row),
        Seen::Maybe => turn.engine.store.command(turn.conversation.id, command).await?,
    };
    row.map(|row| repeat(turn.conversation.id, row, digest)).transpose()
}

fn repeat(conversation: ConversationId, row: CommandRow, digest: u64) -> Result<Outcome, Refusal> {
    if row.digest != digest {
        return Err(Refusal::new(
            ErrorCode::IdempotencyKeyReused,
            "the same idempotency key came with other content",
        ));
    }
    Ok(Outcome {
        conversation,
        seq: row.seq,
        at: row.at,
        duplicate: true,
        existed: false,
        answer: row.answer,
    })
}

/// What a turn decided.
pub(crate) enum Decided {
    Write(Box<Transaction>),
    /// Everything is as asked for already.
    Nothing {
        seq: Seq,
        existed: bool,
        answer: Option<String>,
    },
}

impl Decided {
    fn write(transaction: Transaction) -> Result<Decided, Refusal> {
        Ok(Decided::Write(Box::new(transaction)))
    }

    const UNCHANGED: Decided = Decided::Nothing {
        seq: 0,
        existed: true,
        answer: None,
    };
}

/// Everything a decision looks at.
struct Context<'a> {
    turn: &'a Turn,
    plan: &'a dyn Plan,
    request: &'a Request,
    address: Option<&'a Address>,
    command: CommandId,
    now: Millis,
    /// Plugins that led to it, oldest first.
    origin: Vec<PluginId>,
    countable: bool,
    /// Made when the first handler runs.
    scope: std::sync::OnceLock<HandlerScope>,
}

impl Context<'_> {
    fn engine(&self) -> &Arc<Inner> {
        &self.turn.engine
    }

    fn actor(&self) -> &Actor {
        &self.request.actor
    }

    fn state<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        self.turn.conversation.with_state(read)
    }

    fn id(&self) -> ConversationId {
        self.turn.conversation.id
    }

    fn scope(&self) -> &HandlerScope {
        self.scope.get_or_init(|| {
            let call = Call {
                command: self.command,
                actor: self.actor().clone(),
                trace_id: self.request.trace_id.clone(),
                now: self.now,
                conversation: Some(self.id()),
                origin: self.origin.clone(),
            };
            HandlerScope::new(self.engine(), &self.turn.conversation, scope::Place::InTurn, call)
        })
    }

    fn facts<'b>(&'b self, kind: ConversationKind, message: Option<&'b str>) -> Facts<'b> {
        Facts {
            conversation: kind,
            message,
            dialect: &self.actor().dialect,
        }
    }

    fn kind(&self) -> ConversationKind {
        self.state(|state| state.address().or(self.address).map_or(ConversationKind::Personal, Address::kind))
    }

    /// Adds what the handlers wrote.
    async fn join(&self, mut transaction: Transaction) -> Result<Decided, Refusal> {
        for item in &mut transaction.items {
            item.origin.clone_from(&self.origin);
        }
        match self.scope.get() {
            Some(scope) => Decided::write(scope.join(self.plan, transaction).await?),
            None => Decided::write(transaction),
        }
    }
}

async fn decide(context: &Context<'_>) -> Result<Decided, Refusal> {
    match &context.request.command {
        Command::Send { message, .. } => send(context, message).await,
        Command::Edit {
            message,
            text,
            metadata,
            if_rev,
        } => edit(context, *message, text.as_deref(), metadata.as_deref(), *if_rev).await,
        Command::Delete { message, if_rev } => delete(context, *message, *if_rev).await,
        Command::React { message, emoji } => react(context, *message, emoji.as_deref()).await,
        Command::CreateConversation(new) => create(context, new).await,
        Command::UpdateConversation { update, .. } => update_conversation(context, update).await,
        Command::CloseConversation { closed, reason, .. } => close(context, *closed, reason.as_deref()).await,
        Command::AddParticipant { user, role, .. } => add(context, user, *role).await,
        Command::RemoveParticipant { user, .. } => remove(context, user).await,
        Command::SetRole { user, role, .. } => set_role(context, user, *role).await,
        Command::Block { user, blocked } => block(context, user, *blocked),
        Command::Call { name, payload, .. } => call(context, name, payload).await,
        Command::Archive { conversation, archived } => {
            must_be_in(context, *conversation).await?;
            personal(
                context,
                Event::ConversationArchived {
                    conversation: *conversation,
                    archived: *archived,
                },
            )
        }
        Command::Hide { conversation } => {
            let to_seq = must_be_in(context, *conversation).await?;
            // What is never shown again is not unread.
            marks::move_to(context.engine(), context.actor(), *conversation, None, Some(to_seq), Some(Box::new(drop)));
            personal(
                context,
                Event::ConversationHidden {
                    conversation: *conversation,
                    to_seq,
                },
            )
        }
        Command::Mute { conversation, until } => {
            must_be_in(context, *conversation).await?;
            personal(
                context,
                Event::ConversationMuted {
                    conversation: *conversation,
                    until: *until,
                },
            )
        }
        Command::HideMessage { message } => {
            must_be_in(context, message.conversation).await?;
            context.engine().store.message(*message).await?.ok_or_else(Refusal::not_found)?;
            personal(context, Event::MessageHidden(*message))
        }
        Command::UpdateProfile { user, patch } => update_profile(context, user, patch).await,
        Command::ReadNotification { seq } => {
            let row = context
                .engine()
                .store
                .notification(&context.actor().user, *seq)
                .await?
                .ok_or_else(Refusal::not_found)?;
            if row.read {
                Ok(Decided::UNCHANGED)
            } else {
                personal(context, Event::NotificationsRead(vec![*seq]))
            }
        }
        Command::ReadAllNotifications => personal(context, Event::AllNotificationsRead(context.state(|state| state.head))),
    }
}

// ---- messages -------------------------------------------------------------------------------------------------------

async fn send(context: &Context<'_>, message: &NewMessage) -> Result<Decided, Refusal> {
    let opening = opening(context).await?;
    context.state(|state| may_send(state, context.actor(), opening.is_some()))?;
    if let Some(reply_to) = message.reply_to {
        let answered = if reply_to.conversation == context.id() {
            load_message(context, reply_to).await?
        } else {
            None
        };
        answered.ok_or_else(|| Refusal::bad("/replyToId", "a reply answers a message of the same conversation"))?;
    }
    if let Some(forwarded) = message.forwarded_from {
        may_forward(context, forwarded).await?;
    }
    let by_plugin = !context.origin.is_empty();
    if !by_plugin && !BUILT_IN_KINDS.contains(&message.kind.as_str()) && context.plan.claims(&message.kind).is_none() {
        return Err(Refusal::bad(
            "/type",
            format!("no active plugin handles messages of type {:?}", message.kind),
        ));
    }
    let draft = Draft {
        op: Op::Send,
        target: None,
        conversation: context.id(),
        sender: context.actor().user.clone(),
        kind: message.kind.clone(),
        text: message.text.clone(),
        metadata: message.metadata.clone(),
        reply_to: message.reply_to,
        forwarded_from: message.forwarded_from,
        client_id: context.request.client_id.clone(),
    };
    let (draft, decided_by) = before_message(context, draft).await?;
    let mut transaction = opening.unwrap_or_default();
    transaction.main = transaction.items.len();
    transaction.items.push(Item::new(
        &context.actor().user,
        Event::MessageCreated(Content {
            sender_roles: kept_roles(context.actor()),
            ..content_of(draft, context.countable, decided_by)
        }),
    ));
    context.join(transaction).await
}

/// What after-hooks are told of the sender's token.
fn kept_roles(actor: &Actor) -> Vec<String> {
    let short = actor.roles.iter().filter(|role| role.len() <= SENDER_ROLE_BYTES_MAX);
    short.take(SENDER_ROLES_MAX).cloned().collect()
}

fn may_send(state: &State, actor: &Actor, opening: bool) -> Result<(), Refusal> {
    if state.is_blocked() {
        return Err(Refusal::new(ErrorCode::Blocked, "one of you blocks the other"));
    }
    if opening {
        return Ok(());
    }
    let kind = state.address().map(Address::kind);
    let speaks = match kind {
        None => false,
        Some(ConversationKind::Broadcast) => actor.is_admin(),
        Some(_) => state.members.contains_key(&actor.user) || owns(state, actor),
    };
    if !speaks {
        // Whoever may read a broadcast knows that it is there.
        return Err(if kind == Some(ConversationKind::Broadcast) {
            only_admins_write()
        } else {
            Refusal::not_found()
        });
    }
    if state.is_closed() {
        return Err(Refusal::new(ErrorCode::Conflict, "the conversation is closed"));
    }
    Ok(())
}

fn only_admins_write() -> Refusal {
    Refusal::forbidden("only admins write here")
}

/// A plugin speaks in its own contexts without being a participant.
fn owns(state: &State, actor: &Actor) -> bool {
    let plugin = actor.user.as_str().strip_prefix("plugin:");
    matches!((state.address(), plugin), (Some(Address::Context(owner, ..)), Some(plugin)) if owner.as_str() == plugin)
}

async fn may_forward(context: &Context<'_>, message: MessageId) -> Result<(), Refusal> {
    let refused = || Refusal::bad("/forwardedFromId", "there is no such message that you can read");
    let user = &context.actor().user;
    let readable = if message.conversation == context.id() {
        context.state(|state| state.members.contains_key(user))
    } else {
        match context.engine().store.conversation(message.conversation).await? {
            Some(row) => is_in(context, &row).await?,
            None => false,
        }
    };
    if !readable {
        return Err(refused());
    }
    let row = load_message(context, message).await?.ok_or_else(refused)?;
    let hidden = context.engine().store.is_hidden(user, message).await?;
    if row.deleted_at.is_some() || hidden { Err(refused()) } else { Ok(()) }
}

/// Runs the before-hooks; what they rewrite is input again.
async fn before_message(context: &Context<'_>, draft: Draft) -> Result<(Draft, Vec<Decider>), Refusal> {
    if !context.plan.wants(Hook::BeforeMessage, &context.facts(context.kind(), Some(&draft.kind))) {
        return Ok((draft, Vec::new()));
    }
    let (draft, decided_by) = context.plan.before_message(context.scope(), draft, &context.origin).await?;
    check_text(context.engine(), Some(&draft.text), draft.metadata.as_deref())?;
    Ok((draft, decided_by))
}

/// A message, of the turn's own conversation with everything staged. `None` when it never was.
async fn load_message(context: &Context<'_>, id: MessageId) -> Result<Option<MessageRow>, Refusal> {
    if id.conversation == context.id() {
        return Ok(scope::present::message(context.engine(), &context.turn.conversation, id).await?);
    }
    Ok(context.engine().store.message(id).await?)
}

/// A message of this conversation that is there and not deleted, for a participant; of a broadcast for who writes there.
async fn present_message(context: &Context<'_>, id: MessageId, if_rev: Option<Seq>) -> Result<MessageRow, Refusal> {
    let actor = context.actor();
    match context.kind() {
        ConversationKind::Broadcast if actor.is_admin() => {}
        ConversationKind::Broadcast => return Err(only_admins_write()),
        _ if context.state(|state| state.members.contains_key(&actor.user)) => {}
        _ => return Err(Refusal::not_found()),
    }
    let row = load_message(context, id).await?.ok_or_else(Refusal::not_found)?;
    let hidden = context.engine().store.is_hidden(&context.actor().user, id).await?;
    if row.deleted_at.is_some() || hidden {
        return Err(Refusal::not_found());
    }
    match if_rev {
        Some(rev) if rev != row.rev => Err(Refusal::new(
            ErrorCode::PreconditionFailed,
            format!("the message is at {}, not at {rev}", row.rev),
        )),
        _ => Ok(row),
    }
}

async fn edit(context: &Context<'_>, id: MessageId, text: Option<&str>, metadata: Option<&str>, if_rev: Option<Seq>) -> Result<Decided, Refusal> {
    let before = present_message(context, id, if_rev).await?;
    if before.sender != context.actor().user {
        return Err(Refusal::forbidden("only its sender edits a message"));
    }
    if context.state(State::is_blocked) {
        return Err(Refusal::new(ErrorCode::Blocked, "one of you blocks the other"));
    }
    let old = &before.content;
    if !BUILT_IN_KINDS.contains(&old.kind.as_str()) && context.plan.claims(&old.kind).is_none() {
        return Err(Refusal::bad("/type", format!("no active plugin handles messages of type {:?}", old.kind)));
    }
    let draft = Draft {
        op: Op::Edit,
        target: Some(id),
        conversation: id.conversation,
        sender: before.sender.clone(),
        kind: old.kind.clone(),
        text: text.map_or_else(|| old.text.clone(), str::to_owned),
        metadata: metadata.map(str::to_owned).or_else(|| old.metadata.clone()),
        reply_to: old.reply_to,
        forwarded_from: old.forwarded_from,
        client_id: old.client_id.clone(),
    };
    let (draft, decided_by) = before_message(context, draft).await?;
    let content = Content {
        kind: old.kind.clone(),
        silent: draft.text == old.text,
        sender_roles: kept_roles(context.actor()),
        ..content_of(draft, old.countable, decided_by)
    };
    let item = Item::new(&context.actor().user, Event::MessageEdited { target: id.seq, content }).changing(before);
    context.join(Transaction::of(item)).await
}

async fn delete(context: &Context<'_>, id: MessageId, if_rev: Option<Seq>) -> Result<Decided, Refusal> {
    let before = present_message(context, id, if_rev).await?;
    let own = before.sender == context.actor().user;
    let admin = match context.kind() {
        ConversationKind::Broadcast => context.actor().is_admin(),
        _ => context.state(|state| state.members.get(&context.actor().user).is_some_and(|member| member.role == Role::Admin)),
    };
    if !own && !admin {
        return Err(Refusal::forbidden("only its sender or an admin of the conversation deletes a message"));
    }
    let draft = Draft {
        op: Op::Delete,
        target: Some(id),
        conversation: id.conversation,
        sender: before.sender.clone(),
        kind: before.content.kind.clone(),
        text: before.content.text.clone(),
        metadata: before.content.metadata.clone(),
        reply_to: before.content.reply_to,
        forwarded_from: before.content.forwarded_from,
        client_id: None,
    };
    before_message(context, draft).await?;
    let n = if before.content.countable { before.n } else { 0 };
    let event = Event::MessageDeleted {
        target: id.seq,
        sender: before.sender.clone(),
        n,
    };
    context
        .join(Transaction::of(Item::new(&context.actor().user, event).changing(before)))
        .await
}

async fn react(context: &Context<'_>, id: MessageId, emoji: Option<&str>) -> Result<Decided, Refusal> {
    let before = present_message(context, id, None).await?;
    let user = &context.actor().user;
    let present = before.reactions.iter().find(|(other, _)| other == user).map(|(_, emoji)| emoji.as_str());
    if present == emoji {
        return Ok(Decided::UNCHANGED);
    }
    // Taking one away says nothing to the other.
    if emoji.is_some() && context.state(State::is_blocked) {
        return Err(Refusal::new(ErrorCode::Blocked, "one of you blocks the other"));
    }
    let change = ReactionChange {
        message: id,
        user: user.clone(),
        emoji: emoji.map(str::to_owned),
    };
    if context
        .plan
        .wants(Hook::BeforeReaction, &context.facts(context.kind(), Some(&before.content.kind)))
    {
        context.plan.before_reaction(context.scope(), change).await?;
    }
    let event = match emoji {
        Some(emoji) => Event::ReactionAdded {
            target: id.seq,
            user: user.clone(),
            emoji: emoji.into(),
        },
        None => Event::ReactionRemoved {
            target: id.seq,
            user: user.clone(),
        },
    };
    context.join(Transaction::of(Item::new(user, event).changing(before))).await
}

// ---- conversations --------------------------------------------------------------------------------------------------

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

/// What must come first when a message opens a direct conversation: it is created, both join.
async fn opening(context: &Context<'_>) -> Result<Option<Transaction>, Refusal> {
    let Some(address @ Address::Direct(a, b)) = context.address else {
        return Ok(None);
    };
    if context.state(|state| !state.members.is_empty()) {
        return Ok(None);
    }
    let participants = vec![a.clone(), b.clone()];
    must_be_known(context, &participants).await?;
    let new = Founding {
        address,
        participants,
        roles: Vec::new(),
        name: None,
        avatar: None,
        state: None,
    };
    found(context, new).await.map(Some)
}

/// A conversation to be created.
struct Founding<'a> {
    address: &'a Address,
    participants: Vec<UserId>,
    /// Of the first participants; the rest are members.
    roles: Vec<Role>,
    name: Option<String>,
    avatar: Option<String>,
    state: Option<String>,
}

/// Created (unless a block has done that) and joined by everybody, after the before-hooks.
async fn found(context: &Context<'_>, new: Founding<'_>) -> Result<Transaction, Refusal> {
    context.turn.conversation.guarded.lock().state.pending = Some(new.address.clone());
    let kind = new.address.kind();
    let mut draft = ConversationDraft {
        op: ConversationOp::Create,
        kind,
        context: context_name(new.address),
        name: new.name,
        avatar: new.avatar,
        state: new.state,
        participants: new.participants,
    };
    if context.plan.wants(Hook::BeforeConversation, &context.facts(kind, None)) {
        let participants = draft.participants.clone();
        draft = context.plan.before_conversation(context.scope(), draft).await?;
        draft.participants = participants; // Who is in it is not a plugin's to change.
    }
    let actor = &context.actor().user;
    let mut transaction = Transaction::default();
    if context.state(|state| state.row.is_none()) {
        let created = ConversationCreated {
            address: new.address.clone(),
            creator: (!actor.as_str().is_empty()).then(|| actor.clone()),
            name: draft.name,
            avatar: draft.avatar,
            state: draft.state,
        };
        transaction.items.push(Item::new(actor, Event::ConversationCreated(created)));
    }
    let id = context.id();
    for (index, user) in draft.participants.into_iter().enumerate() {
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

async fn create(context: &Context<'_>, new: &NewConversation) -> Result<Decided, Refusal> {
    let address = context.address.expect("a new conversation has an address");
    let actor = context.actor();
    if let NewConversation::Context { owner, .. } = new
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
    let (participants, name, avatar, state) = match new {
        NewConversation::Direct { with } => (vec![actor.user.clone(), with.clone()], None, None, None),
        NewConversation::Group { participants, name, avatar } => (once_each(Some(&actor.user), participants), name.clone(), avatar.clone(), None),
        NewConversation::Context {
            participants, name, state, ..
        } => (once_each(None, participants), name.clone(), None, state.clone()),
        NewConversation::Broadcast { name } => (Vec::new(), Some(name.clone()), None, None),
    };
    must_be_known(context, &participants).await?;
    let roles = if matches!(new, NewConversation::Group { .. }) {
        vec![Role::Admin]
    } else {
        Vec::new()
    };
    let transaction = found(
        context,
        Founding {
            address,
            participants,
            roles,
            name,
            avatar,
            state,
        },
    )
    .await?;
    context.join(transaction).await
}

fn once_each(first: Option<&UserId>, users: &[UserId]) -> Vec<UserId> {
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
        let actor = context.actor();
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

async fn update_conversation(context: &Context<'_>, update: &ConversationUpdate) -> Result<Decided, Refusal> {
    may_manage(context)?;
    let kind = context.kind();
    let mut update = update.clone();
    if context.plan.wants(Hook::BeforeConversation, &context.facts(kind, None)) {
        let context_name = context.state(|state| state.address().and_then(context_name));
        let draft = ConversationDraft {
            op: ConversationOp::Update,
            kind,
            context: context_name,
            name: update.name,
            avatar: update.avatar,
            state: update.state,
            participants: Vec::new(),
        };
        let draft = context.plan.before_conversation(context.scope(), draft).await?;
        update = ConversationUpdate {
            name: draft.name,
            avatar: draft.avatar,
            state: draft.state,
        };
    }
    check_update(context.engine(), &update)?;
    let item = Item::new(&context.actor().user, Event::ConversationUpdated(update));
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

async fn close(context: &Context<'_>, closed: bool, reason: Option<&str>) -> Result<Decided, Refusal> {
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
            name: None,
            avatar: None,
            state: None,
            participants: Vec::new(),
        };
        context.plan.before_conversation(context.scope(), draft).await?;
    }
    let event = if closed {
        Event::ConversationClosed(reason.map(str::to_owned))
    } else {
        Event::ConversationReopened
    };
    context.join(Transaction::of(Item::new(&context.actor().user, event))).await
}

async fn add(context: &Context<'_>, user: &UserId, role: Role) -> Result<Decided, Refusal> {
    may_manage(context)?;
    if context.kind() == ConversationKind::Broadcast {
        return Err(Refusal::forbidden("everybody reads a broadcast; it has no participants"));
    }
    let (joined, count) = context.state(|state| (state.members.contains_key(user), state.members.len()));
    if joined {
        return Ok(Decided::UNCHANGED);
    }
    let max = context.engine().limits.participants_max;
    if count >= max {
        return Err(Refusal::new(ErrorCode::TooLarge, format!("limits.participants_max is {max}")));
    }
    must_be_known(context, std::slice::from_ref(user)).await?;
    participant(
        context,
        ParticipantOp::Join,
        user,
        role,
        Event::ParticipantJoined { user: user.clone(), role },
        Some(Event::MembershipStarted(context.id())),
    )
    .await
}

async fn remove(context: &Context<'_>, user: &UserId) -> Result<Decided, Refusal> {
    let itself = *user == context.actor().user;
    let member = context.state(|state| state.members.get(user).map(|member| member.role));
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
        user,
        role,
        Event::ParticipantLeft { user: user.clone() },
        Some(Event::MembershipEnded(context.id())),
    )
    .await
}

async fn set_role(context: &Context<'_>, user: &UserId, role: Role) -> Result<Decided, Refusal> {
    may_manage(context)?;
    let present = context
        .state(|state| state.members.get(user).map(|member| member.role))
        .ok_or_else(Refusal::not_found)?;
    if present == role {
        return Ok(Decided::UNCHANGED);
    }
    participant(
        context,
        ParticipantOp::Role,
        user,
        role,
        Event::ParticipantUpdated { user: user.clone(), role },
        None,
    )
    .await
}

async fn participant(
    context: &Context<'_>,
    op: ParticipantOp,
    user: &UserId,
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
    let mut transaction = Transaction::of(Item::new(&context.actor().user, event));
    let outgoing = personal.map(|event| OutgoingItem {
        to: Address::Personal(user.clone()),
        what: Outgoing::Personal(event),
        origin: context.origin.clone(),
    });
    transaction.effects.outgoing.extend(outgoing);
    context.join(transaction).await
}

/// A block is in turn with sends of the pair, whether or not they ever talked.
fn block(context: &Context<'_>, user: &UserId, blocked: bool) -> Result<Decided, Refusal> {
    let address = context.address.expect("a block has the pair's address");
    let me = &context.actor().user;
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
    let listed = Outgoing::Personal(Event::BlockListed { user: user.clone(), blocked });
    transaction.effects.outgoing.push(OutgoingItem {
        to: Address::Personal(me.clone()),
        what: listed,
        origin: Vec::new(),
    });
    Decided::write(transaction)
}

// ---- plugins --------------------------------------------------------------------------------------------------------

async fn call(context: &Context<'_>, name: &str, payload: &str) -> Result<Decided, Refusal> {
    let actor = context.actor();
    if matches!(&context.request.command, Command::Call { conversation: Some(_), .. }) {
        let may = context.state(|state| state.members.contains_key(&actor.user) || (state.row.is_some() && actor.is_admin()));
        if !may || context.kind() == ConversationKind::Personal {
            return Err(Refusal::not_found());
        }
    }
    let no_command = || Refusal {
        field: Some("/name"),
        ..Refusal::new(ErrorCode::NotFound, format!("no active plugin has the command {name:?}"))
    };
    let plugin = context.plan.command_owner(name).ok_or_else(no_command)?;
    let answer = context.plan.command(context.scope(), &plugin, name, payload).await?;
    let mut transaction = context.scope().join(context.plan, Transaction::default()).await?;
    if transaction.is_empty() && transaction.emits.is_empty() && context.request.client_id.is_none() {
        return Ok(Decided::Nothing {
            seq: 0,
            existed: false,
            answer: Some(answer),
        });
    }
    transaction.effects.answer = Some(answer);
    personal_first(context, &mut transaction);
    Decided::write(transaction)
}

// ---- personal -------------------------------------------------------------------------------------------------------

/// The actor is a present participant, or a reader of a broadcast.
async fn is_in(context: &Context<'_>, row: &ConversationRow) -> Result<bool, Refusal> {
    if row.kind() == ConversationKind::Broadcast {
        return Ok(true);
    }
    let member = context.engine().store.member(row.id, &context.actor().user).await?;
    Ok(member.is_some_and(|member| member.left_seq.is_none()))
}

/// The head of a conversation that the actor is in.
async fn must_be_in(context: &Context<'_>, conversation: ConversationId) -> Result<Seq, Refusal> {
    let row = context.engine().store.conversation(conversation).await?.ok_or_else(Refusal::not_found)?;
    if is_in(context, &row).await? {
        Ok(row.head)
    } else {
        Err(Refusal::not_found())
    }
}

fn personal(context: &Context<'_>, event: Event) -> Result<Decided, Refusal> {
    let mut transaction = Transaction::of(Item::new(&context.actor().user, event));
    personal_first(context, &mut transaction);
    Decided::write(transaction)
}

/// A personal conversation is created by the first thing in it.
fn personal_first(context: &Context<'_>, transaction: &mut Transaction) {
    if let Some(address @ Address::Personal(_)) = context.address
        && context.state(|state| state.row.is_none())
    {
        open_first(address, transaction);
    }
}

/// Puts the creation of the conversation before everything else.
pub(crate) fn open_first(address: &Address, transaction: &mut Transaction) {
    transaction.items.insert(0, Item::new(&UserId::from(""), created(address, None)));
    if transaction.items.len() > 1 {
        transaction.main += 1;
    }
}

async fn update_profile(context: &Context<'_>, user: &UserId, patch: &ProfilePatch) -> Result<Decided, Refusal> {
    let old = context.engine().profile(&context.turn.conversation, user).await?;
    let created = old.is_none();
    let old = old.unwrap_or_default();
    let new = patch.clone().apply(old.clone());
    if !created && new == old {
        return Ok(Decided::UNCHANGED);
    }
    if new.attributes != old.attributes || new.preferences != old.preferences {
        check_json_of_profile(context.engine(), &new)?;
    }
    personal(context, Event::ProfileUpdated(new))
}
