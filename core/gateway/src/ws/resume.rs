//! Logging in, the list of heads, and the replay of what a client missed: everything of a connection that reads the store.
//!
//! These run as tasks of their own beside the connection's. A replay fills the outbox only to its half, so it goes at the pace
//! of the client, and it ends when its subscription or its connection does.

use std::sync::Arc;

use haggle_engine::{Actor, Refusal};
use haggle_model::{ConversationId, ConversationKind, MarkChange, Seq, UserId};
use haggle_store::{ConversationRow, InboxQuery, MemberRow, StoreError};

use super::{
    encode, frame,
    protocol::Id,
    socket::{Ended, NewHead, Socket},
    subscription::Reached,
};
use crate::{AuthError, Gateway, Identity, resource::EventView, rest::cursor::Cursor};

/// Events read at once; a page of large messages stays far below the outbox.
const PAGE_EVENTS: usize = 100;
/// Members read at once for their marks.
const PAGE_MEMBERS: usize = 256;

/// What a login has found out.
pub(super) struct Login {
    /// Who it is.
    pub identity: Identity,
    /// The user's personal conversation and its head.
    pub personal: (ConversationId, Seq),
}

/// Why a login failed.
pub(super) enum LoginError {
    /// The token is not good.
    Token(AuthError),
    /// The engine says no.
    Refused(Refusal),
}

impl From<Refusal> for LoginError {
    fn from(refusal: Refusal) -> LoginError {
        LoginError::Refused(refusal)
    }
}

impl From<StoreError> for LoginError {
    fn from(error: StoreError) -> LoginError {
        LoginError::Refused(error.into())
    }
}

/// Checks the token and finds the user's own stream.
pub(super) async fn login(gateway: Arc<Gateway>, token: String) -> Result<Login, LoginError> {
    let identity = gateway.auth.authenticate(&token).await.map_err(LoginError::Token)?;
    login_as(gateway, identity).await
}

/// The same for a token that was checked with the handshake.
pub(super) async fn login_as(gateway: Arc<Gateway>, identity: Identity) -> Result<Login, LoginError> {
    let engine = &gateway.engine;
    engine.see_user(&identity.user).await?;
    let personal = engine.personal_head(&identity.user).await?;
    Ok(Login { identity, personal })
}

/// A subscription that was just registered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registered {
    pub conversation: ConversationId,
    pub generation: u32,
    /// The last seq the client has; `None`: it wants only what comes.
    pub since: Option<Seq>,
}

/// What follows a login: the heads, then the own stream, then every cursor in the order the client gave them.
pub(super) async fn start(socket: Arc<Socket>, actor: Actor, own: Option<(Registered, Seq)>, cursors: Vec<Registered>) {
    if let Some((own, head)) = own {
        heads(&socket).await;
        replay(&socket, own, ConversationKind::Personal, head).await;
    }
    for cursor in cursors {
        if let Err(refusal) = subscribe(&socket, &actor, cursor, None).await {
            socket.control(|out| encode::err(out, &Id::None, Some(cursor.conversation), &refusal));
        }
        // Where nothing was missed nothing is waited for, and there may be hundreds.
        tokio::task::yield_now().await;
    }
}

/// A `sub` as a request: ends with its answer.
pub(super) async fn answer_subscribe(socket: Arc<Socket>, actor: Actor, subscription: Registered, id: Id) {
    match subscribe(&socket, &actor, subscription, Some(&id)).await {
        Ok(()) => socket.end_answered_request(),
        Err(refusal) if id == Id::None => socket.end_request(|out| encode::err(out, &id, Some(subscription.conversation), &refusal)),
        Err(refusal) => socket.end_request(|out| encode::err(out, &id, None, &refusal)),
    }
}

/// Checks that the user may read the conversation, answers, and replays. The subscription is registered by now.
async fn subscribe(socket: &Arc<Socket>, actor: &Actor, subscription: Registered, id: Option<&Id>) -> Result<(), Refusal> {
    let conversation = subscription.conversation;
    let readable = readable(socket, actor, conversation).await;
    let Readable { row, member, unread } = readable.inspect_err(|_| socket.abandon(conversation, subscription.generation))?;
    if let Some(id) = id.filter(|id| **id != Id::None) {
        socket.control(|out| encode::subscribed(out, id, conversation, row.head, unread));
    }
    let members = first_members(socket, &row).await;
    if marks(socket, subscription, &row, member.as_ref(), &members).await.is_ok() {
        replay(socket, subscription, row.kind(), row.head).await;
        socket.gateway.engine.show_presence(&**socket, &row, &members).await;
    }
    Ok(())
}

/// A conversation whose live events somebody gets.
struct Readable {
    row: ConversationRow,
    /// The user's place; none in its own stream.
    member: Option<MemberRow>,
    unread: Option<u32>,
}

/// The conversation for who gets its live events: participants (of a broadcast that is everybody), and the own stream.
async fn readable(socket: &Socket, actor: &Actor, conversation: ConversationId) -> Result<Readable, Refusal> {
    let engine = &socket.gateway.engine;
    let place = engine.inbox_row(&actor.user, conversation).await?;
    if let Some(place) = place.filter(|place| place.member.left_seq.is_none()) {
        return Ok(Readable {
            row: place.conversation,
            member: Some(place.member),
            unread: Some(place.unread),
        });
    }
    let (row, member) = engine.authorize_read(actor, conversation).await?;
    if member.is_none() && row.kind() != ConversationKind::Personal {
        return Err(Refusal::forbidden("only participants can subscribe; read this conversation by REST"));
    }
    Ok(Readable { row, member, unread: None })
}

/// The first members by id. None, with a warning, where the store cannot be read: what they are wanted for can be dropped.
async fn first_members(socket: &Socket, row: &ConversationRow) -> Vec<MemberRow> {
    if matches!(row.kind(), ConversationKind::Personal | ConversationKind::Broadcast) {
        return Vec::new();
    }
    let members = socket.gateway.engine.store().members(row.id, None, PAGE_MEMBERS).await;
    members.unwrap_or_else(|error| {
        tracing::warn!(%error, "marks and presence are not sent since the store cannot be read");
        Vec::new()
    })
}

/// Replays what the client missed and goes live, or tells a gap.
async fn replay(socket: &Socket, subscription: Registered, kind: ConversationKind, head: Seq) {
    let Registered {
        conversation,
        generation,
        since,
    } = subscription;
    let since = since.unwrap_or(head);
    let events_max = socket.gateway.settings.ws.replay_events_max;
    if since > head {
        return socket.skip_to(conversation, generation, head, |last| encode::reset(conversation, last));
    }
    if (head - since) as usize > events_max {
        return socket.skip_to(conversation, generation, head, |last| encode::gap(conversation, since + 1, last));
    }
    let mut reached = since;
    let mut to = head;
    // What is published meanwhile counts too, so that a busy conversation cannot keep a replay going for ever.
    while ((reached - since) as usize) < 2 * events_max {
        if reached >= to {
            match socket.reach(conversation, generation, reached) {
                Reached::Live | Reached::Ended => return,
                Reached::More(last) => to = to.max(last),
            }
        }
        match page(socket, subscription, kind, reached).await {
            Ok(Some(last)) => reached = last,
            Ok(None) => to = reached, // The store has not got further.
            Err(PageError::Ended) => return,
            Err(PageError::Store(error)) => {
                tracing::warn!(%error, "a replay ends with a gap since the store cannot be read");
                break;
            }
        }
    }
    socket.skip_to(conversation, generation, head.max(reached), |last| {
        encode::gap(conversation, reached + 1, last)
    });
}

enum PageError {
    Ended,
    Store(StoreError),
}

impl From<Ended> for PageError {
    fn from(_: Ended) -> PageError {
        PageError::Ended
    }
}

/// Queues the events after `after`; the seq of the last one if there may be more.
async fn page(socket: &Socket, subscription: Registered, kind: ConversationKind, after: Seq) -> Result<Option<Seq>, PageError> {
    let Registered {
        conversation, generation, ..
    } = subscription;
    let rows = socket
        .gateway
        .engine
        .store()
        .events(conversation, after, PAGE_EVENTS)
        .await
        .map_err(PageError::Store)?;
    for row in &rows {
        socket
            .replay(conversation, generation, encode::event(kind, EventView::of_row(conversation, row)))
            .await?;
    }
    Ok(rows.last().map(|row| row.seq))
}

/// Sends the marks as they stand: of everybody where everybody sees them, else the user's own. `members` are the first ones.
async fn marks(
    socket: &Socket,
    subscription: Registered,
    row: &ConversationRow,
    member: Option<&MemberRow>,
    mut members: &[MemberRow],
) -> Result<(), Ended> {
    let shared_max = socket.gateway.engine.limits().shared_marks_participants_max;
    if row.kind() == ConversationKind::Personal {
        return Ok(());
    }
    if row.kind() == ConversationKind::Broadcast || row.participants as usize > shared_max {
        return match member {
            Some(member) => send_mark(socket, subscription, &member.user, &member.mark).await,
            None => Ok(()),
        };
    }
    let mut page;
    loop {
        for member in members.iter().filter(|member| member.left_seq.is_none()) {
            send_mark(socket, subscription, &member.user, &member.mark).await?;
        }
        let Some(last) = members.last().filter(|_| members.len() == PAGE_MEMBERS) else {
            return Ok(());
        };
        page = match socket.gateway.engine.store().members(row.id, Some(&last.user), PAGE_MEMBERS).await {
            Ok(members) => members,
            Err(error) => {
                tracing::warn!(%error, "marks are not sent since the store cannot be read");
                return Ok(());
            }
        };
        members = &page;
    }
}

async fn send_mark(socket: &Socket, subscription: Registered, user: &UserId, mark: &MarkChange) -> Result<(), Ended> {
    if mark.read_seq == 0 && mark.delivered_seq == 0 {
        return Ok(());
    }
    let frame = frame::text_frame(|out| encode::mark(out, subscription.conversation, user, mark, None));
    socket.replay(subscription.conversation, subscription.generation, frame).await
}

/// Sends again the marks of conversations where some were dropped.
pub(super) async fn resend_marks(socket: Arc<Socket>, actor: Actor, conversations: Vec<ConversationId>) {
    for conversation in conversations {
        let Some(generation) = socket.generation(conversation) else { continue };
        if let Ok((row, member)) = socket.gateway.engine.authorize_read(&actor, conversation).await {
            let subscription = Registered {
                conversation,
                generation,
                since: None,
            };
            let members = first_members(&socket, &row).await;
            if marks(&socket, subscription, &row, member.as_ref(), &members).await.is_err() {
                continue;
            }
        }
    }
}

/// Sends the heads of broadcasts that are not subscribed: what is unread there only the store knows.
pub(super) async fn broadcast_heads(socket: Arc<Socket>, heads: Vec<NewHead>) {
    let Some(user) = socket.known_user() else { return };
    for NewHead { conversation, seq, at } in heads {
        match socket.gateway.engine.head_now(conversation, user).await {
            Ok(known) => socket.head(conversation, encode::head(conversation, seq, at, known)),
            Err(error) => tracing::warn!(%error, "the head of a broadcast is not told since the store cannot be read"),
        }
    }
}

/// Sends the user's newest conversations.
pub(super) async fn heads(socket: &Socket) {
    let Some(user) = socket.known_user() else { return };
    let limit = socket.gateway.settings.ws.heads_max;
    let query = InboxQuery {
        archived: None,
        before: None,
        limit,
    };
    match socket.gateway.engine.store().inbox(user, query).await {
        Ok(rows) => {
            let next = rows
                .last()
                .filter(|_| rows.len() == limit)
                .map(|row| Cursor::Conversations(row.conversation.last_message_at, row.conversation.id).encode());
            socket.control(|out| encode::heads(out, &rows, next.as_deref()));
        }
        Err(error) => socket.control(|out| encode::err(out, &Id::None, None, &error.into())),
    }
}
