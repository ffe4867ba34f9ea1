//! A plugin acts as the user of its call: what the capability `client` does.
//!
//! Only handlers that run outside every turn get this far, so that a command which waits for a turn never waits in one.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use async_trait::async_trait;
use haggle_model::{Address, CommandId, ConversationId, ConversationKind, ErrorCode, MessageId, Millis, PluginId, Seq, UserId};
use haggle_store::{InboxQuery, InboxRow, MemberRow, MessageRow, Page};
use tokio::sync::oneshot;

use crate::{
    Actor, Command, Engine, Inner, NewConversation, NotificationView, Outcome, Refusal, Request,
    conversation::unavailable,
    notifications, pipeline,
    ports::{Call, ClientCalls, ClientView},
    readers::{self, Readers},
    sockets::Socket,
    totals::{self, place_of},
};

/// Rows of one list.
const LIST_MAX: usize = 100;
/// Participants that a conversation is shown with.
const PARTICIPANTS_MAX: usize = 256;
/// Users that are named as online.
const ONLINE_MAX: usize = 1000;

/// The user's side of one call.
pub(crate) struct Acting {
    engine: Arc<Inner>,
    plugin: PluginId,
    actor: Actor,
    command: CommandId,
    trace_id: String,
    socket: Option<Arc<dyn Socket>>,
    /// Writes so far: their number is part of their id, so that a call which runs again writes the same ones.
    writes: AtomicU32,
}

impl Acting {
    pub fn new(engine: &Arc<Inner>, plugin: &PluginId, call: &Call, socket: Option<Arc<dyn Socket>>) -> Acting {
        Acting {
            engine: engine.clone(),
            plugin: plugin.clone(),
            actor: call.actor.clone(),
            command: call.command,
            trace_id: call.trace_id.clone(),
            socket,
            writes: AtomicU32::new(0),
        }
    }

    /// The engine knows an actor without a name, which is itself, and those of plugins: nobody else may pass for one.
    fn me(&self) -> Result<&Actor, Refusal> {
        let user = self.actor.user.as_str();
        if user.is_empty() || user.starts_with("plugin:") {
            return Err(Refusal::new(ErrorCode::Unauthenticated, "this connection has no user"));
        }
        Ok(&self.actor)
    }

    fn engine(&self) -> Engine {
        Engine { inner: self.engine.clone() }
    }

    fn socket(&self) -> Result<&Arc<dyn Socket>, Refusal> {
        self.socket
            .as_ref()
            .ok_or_else(|| Refusal::new(ErrorCode::BadRequest, "this call comes from no connection"))
    }

    async fn submit(&self, actor: Actor, command: Command, client_id: Option<String>) -> Result<Outcome, Refusal> {
        let number = self.writes.fetch_add(1, Relaxed);
        let (done, answer) = oneshot::channel();
        let mut request = Request::new(actor, command).with_client_id(client_id);
        request.trace_id.clone_from(&self.trace_id);
        let id = CommandId::hash(&[b"client", &self.command.0, &number.to_be_bytes()]);
        pipeline::submit_as(&self.engine, request, id, Box::new(move |outcome| drop(done.send(outcome))));
        answer.await.map_err(|_| unavailable())?
    }

    async fn view(&self, row: InboxRow) -> Result<ClientView, Refusal> {
        let store = &self.engine.store;
        let id = row.conversation.id;
        let mut participants = store.members(id, None, PARTICIPANTS_MAX).await?;
        participants.retain(|member| member.left_seq.is_none());
        let last_message = match row.conversation.last_message {
            0 => None,
            seq => self.shown(store.message(id.message(seq)).await?).await?,
        };
        Ok(ClientView {
            participants,
            unread: row.unread,
            archived: row.personal.archived_at.is_some(),
            last_message,
            conversation: row.conversation,
        })
    }

    /// A message, unless the user has hidden it.
    async fn shown(&self, row: Option<MessageRow>) -> Result<Option<MessageRow>, Refusal> {
        match row {
            Some(row) if !self.engine.store.is_hidden(&self.actor.user, row.id).await? => Ok(Some(row)),
            _ => Ok(None),
        }
    }

    /// The seq of a notification that is the user's.
    async fn own_notification(&self, id: MessageId) -> Result<Seq, Refusal> {
        let me = &self.me()?.user;
        let is_own = self.engine().personal(me).await? == id.conversation;
        let row = if is_own {
            self.engine.store.notification(me, id.seq).await?
        } else {
            None
        };
        row.map(|row| row.id.seq).ok_or_else(Refusal::not_found)
    }

    async fn inbox(&self, archived: Option<bool>, before: Option<(Millis, ConversationId)>, limit: usize) -> Result<Vec<InboxRow>, Refusal> {
        let query = InboxQuery { archived, before, limit };
        Ok(self.engine.store.inbox(&self.me()?.user, query).await?)
    }
}

#[async_trait]
impl ClientCalls for Acting {
    async fn write(&self, command: Command, client_id: Option<String>) -> Result<Outcome, Refusal> {
        self.submit(self.me()?.clone(), command, client_id).await
    }

    async fn open_context(&self, new: NewConversation) -> Result<Outcome, Refusal> {
        self.engine.admit(self.me()?)?;
        let owner = Actor {
            session: self.actor.session.clone(),
            dialect: self.actor.dialect.clone(),
            ..Actor::plugin(&self.plugin)
        };
        self.submit(owner, Command::CreateConversation(new), None).await
    }

    async fn read(&self, conversation: ConversationId, up_to: Option<Seq>) -> Result<Outcome, Refusal> {
        let (done, answer) = oneshot::channel();
        let read = Some(up_to.unwrap_or(Seq::MAX));
        let reply = Box::new(move |outcome| drop(done.send(outcome)));
        self.engine().mark(self.me()?, conversation, None, read, Some(reply));
        answer.await.map_err(|_| unavailable())?
    }

    fn typing(&self, conversation: ConversationId, on: bool) -> Result<(), Refusal> {
        self.engine().typing(self.me()?, conversation, on);
        Ok(())
    }

    fn presence_hint(&self, online: bool) -> Result<(), Refusal> {
        self.engine().presence_hint(self.me()?, online);
        Ok(())
    }

    async fn join(&self, conversation: ConversationId) -> Result<(), Refusal> {
        let socket = self.socket()?;
        let (row, member) = self.engine().authorize_read(self.me()?, conversation).await?;
        if member.is_none() && row.kind() != ConversationKind::Broadcast {
            return Err(Refusal::forbidden("only participants can join"));
        }
        socket.clone().join(conversation)
    }

    fn leave(&self, conversation: ConversationId) -> Result<(), Refusal> {
        self.socket()?.leave(conversation);
        Ok(())
    }

    fn enter_room(&self, room: &str) -> Result<(), Refusal> {
        self.socket()?.clone().enter_room(room)
    }

    fn leave_room(&self, room: &str) -> Result<(), Refusal> {
        self.socket()?.leave_room(room);
        Ok(())
    }

    async fn direct_id(&self, user: &UserId) -> Result<ConversationId, Refusal> {
        self.engine().locate(&Address::direct(&self.me()?.user, user)).await
    }

    async fn conversations(&self, archived: Option<bool>, after: Option<ConversationId>, limit: usize) -> Result<Vec<ClientView>, Refusal> {
        let me = self.me()?;
        let before = match after {
            Some(id) => {
                let row = self.engine.store.inbox_row(&me.user, id).await?.ok_or_else(Refusal::not_found)?;
                Some(place_of(&row))
            }
            None => None,
        };
        let mut views = Vec::new();
        for row in self.inbox(archived, before, limit.clamp(1, LIST_MAX)).await? {
            views.push(self.view(row).await?);
        }
        Ok(views)
    }

    async fn conversation(&self, id: ConversationId) -> Result<ClientView, Refusal> {
        let me = self.me()?;
        let (conversation, _) = self.engine().authorize_read(me, id).await?;
        if let Some(row) = self.engine.store.inbox_row(&me.user, id).await? {
            return self.view(row).await;
        }
        // A broadcast, or an admin who is no participant: there is nothing of their own to show.
        let member = MemberRow {
            user: me.user.clone(),
            role: haggle_model::Role::Member,
            joined_seq: 0,
            joined_at: 0,
            left_seq: None,
            mark: Default::default(),
        };
        self.view(InboxRow {
            conversation,
            member,
            personal: Default::default(),
            unread: 0,
        })
        .await
    }

    async fn messages(&self, conversation: ConversationId, before: Option<Seq>, limit: usize) -> Result<Vec<MessageRow>, Refusal> {
        let me = self.me()?;
        self.engine().authorize_read(me, conversation).await?;
        let page = before.map_or(Page::Newest, Page::Before);
        let limit = limit.clamp(1, LIST_MAX);
        Ok(self.engine.store.messages(conversation, page, limit, Some(&me.user)).await?)
    }

    async fn message(&self, id: MessageId) -> Result<MessageRow, Refusal> {
        self.engine().authorize_read(self.me()?, id.conversation).await?;
        let row = self.engine.store.message(id).await?;
        self.shown(row).await?.ok_or_else(Refusal::not_found)
    }

    async fn read_by(&self, messages: &[MessageId]) -> Result<Vec<Readers>, Refusal> {
        let me = self.me()?;
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let conversation = readers::one_conversation(messages).filter(|_| messages.len() <= LIST_MAX);
        let Some(conversation) = conversation else {
            return Err(Refusal::new(
                ErrorCode::BadRequest,
                format!("at most {LIST_MAX} messages of one conversation"),
            ));
        };
        self.engine().authorize_read(me, conversation).await?;
        for message in messages {
            let row = self.engine.store.message(*message).await?;
            self.shown(row).await?.ok_or_else(Refusal::not_found)?;
        }
        Ok(readers::of(&self.engine.store, conversation, messages).await?)
    }

    async fn notifications(&self, before: Option<MessageId>, unread_only: bool, limit: usize) -> Result<Vec<NotificationView>, Refusal> {
        let me = &self.me()?.user;
        let before = match before {
            Some(id) => Some(self.own_notification(id).await?),
            None => None,
        };
        let limit = limit.clamp(1, LIST_MAX);
        let mut views = Vec::new();
        for row in self.engine.store.notifications(me, before, unread_only, limit).await? {
            let mut view = NotificationView { user: me.clone(), row };
            notifications::fill(&self.engine, &mut view).await?;
            views.push(view);
        }
        Ok(views)
    }

    async fn read_notification(&self, id: MessageId) -> Result<Outcome, Refusal> {
        let seq = self.own_notification(id).await?;
        self.submit(self.me()?.clone(), Command::ReadNotification { seq }, None).await
    }

    async fn notifications_unread(&self) -> Result<u32, Refusal> {
        Ok(self.engine.store.notifications_unread(&self.me()?.user).await?)
    }

    async fn unread_total(&self) -> Result<u32, Refusal> {
        Ok(totals::of(&self.engine.store, &self.me()?.user, None).await?.unread)
    }

    async fn conversations_total(&self, archived: Option<bool>) -> Result<u32, Refusal> {
        Ok(totals::of(&self.engine.store, &self.me()?.user, archived).await?.conversations)
    }

    async fn presence_of(&self, users: &[UserId]) -> Result<Vec<(bool, Option<Millis>)>, Refusal> {
        self.me()?;
        let mut found = Vec::with_capacity(users.len().min(LIST_MAX));
        for user in users.iter().take(LIST_MAX) {
            found.push(self.engine().presence(user).await?);
        }
        Ok(found)
    }

    fn online_users(&self, limit: usize) -> Result<Vec<UserId>, Refusal> {
        self.me()?;
        Ok(self.engine.hub.some_online(limit.min(ONLINE_MAX)))
    }
}
