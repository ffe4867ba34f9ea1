//! The user's side in [`FakeHost`]: what a plugin does as the user of its call.
//!
//! Every write is kept for the test to look at; those that the fake has state for take effect as well. Nobody is asked:
//! before-hooks and rules are the testkit's.

use super::fake::FakeHost;
use crate::{
    client::{NewMessage, Outcome, Presence, Refusal, Sign, To, View, Write},
    types::{Draft, Message, Op, StoredNotification},
};

type Told<T> = Result<T, Refusal>;

fn refused(code: &str, message: &str) -> Refusal {
    Refusal {
        code: code.into(),
        message: message.into(),
        retry_after_ms: None,
        plugin: None,
    }
}

impl FakeHost {
    fn me(&self) -> Told<String> {
        let me = self.state().call.actor.clone();
        if me.is_empty() {
            return Err(refused("unauthenticated", "this connection has no user"));
        }
        Ok(me)
    }

    fn session(&self) -> Told<String> {
        let session = self.state().call.session.clone();
        if session.is_empty() {
            return Err(refused("bad_request", "this call comes from no connection"));
        }
        Ok(session)
    }

    fn view(&self, id: &str, me: &str) -> Told<View> {
        let not_found = || refused("not_found", "not found");
        let conversation = self.conversation(id).ok_or_else(not_found)?;
        let participants = self.state().participants.get(id).cloned().unwrap_or_default();
        let place = participants.iter().find(|place| place.user_id == me).ok_or_else(not_found)?;
        let messages = self.messages(id);
        let is_unread = |message: &&Message| message.seq > place.read_seq && message.sender_id != me && message.deleted_at_ms.is_none();
        Ok(View {
            unread: messages.iter().filter(is_unread).count() as u32,
            last_message: messages.last().cloned(),
            conversation,
            participants,
            ..View::default()
        })
    }

    fn outcome(&self, conversation_id: &str, existed: bool) -> Outcome {
        let (head, now) = (
            self.conversation(conversation_id).map_or(0, |conversation| conversation.head),
            self.now_ms(),
        );
        Outcome {
            conversation_id: conversation_id.into(),
            seq: head,
            message_id: format!("{}{head:08x}", &conversation_id[..16]),
            at_ms: now,
            duplicate: false,
            existed,
        }
    }

    fn direct_of(&self, me: &str, other: &str) -> Option<String> {
        let state = self.state();
        let is_theirs = |id: &String| {
            let users = state.participants.get(id).into_iter().flatten().map(|place| place.user_id.as_str());
            let users: Vec<_> = users.collect();
            state.conversations[id].kind == "direct" && users.len() == 2 && users.contains(&me) && users.contains(&other)
        };
        state.conversations.keys().find(|id| is_theirs(id)).cloned()
    }

    fn send_as_user(&self, me: &str, message: NewMessage) -> Told<Outcome> {
        let conversation_id = match message.to {
            To::Conversation(id) => self.view(&id, me).map(|_| id)?,
            To::User(other) => self
                .direct_of(me, &other)
                .unwrap_or_else(|| self.state_mut().create("direct", None, &[me, &other])),
        };
        let draft = Draft {
            op: Op::Send,
            conversation_id: conversation_id.clone(),
            sender_id: me.into(),
            kind: message.kind,
            content: message.content,
            metadata: message.metadata,
            reply_to: message.reply_to,
            forwarded_from: message.forwarded_from,
            client_message_id: message.client_message_id,
            ..Draft::default()
        };
        let reference = self.state().call.reference.clone();
        self.state_mut().store(&reference, draft);
        Ok(self.outcome(&conversation_id, false))
    }

    fn own_message(&self, id: &str, me: &str) -> Told<String> {
        match self.message(id) {
            Some(message) if message.sender_id == me => Ok(message.conversation_id),
            Some(_) => Err(refused("forbidden", "only the sender changes a message")),
            None => Err(refused("not_found", "not found")),
        }
    }

    pub(super) fn write_as_user(&self, write: Write) -> Told<Outcome> {
        let me = self.me()?;
        self.state_mut().client_writes.push(write.clone());
        match write {
            Write::Send(message) => self.send_as_user(&me, message),
            Write::Edit {
                message_id,
                content,
                metadata,
            } => {
                let conversation = self.own_message(&message_id, &me)?;
                self.state_mut().change(&message_id, |message| {
                    message.content = content.unwrap_or_else(|| message.content.clone());
                    message.metadata = metadata.or_else(|| message.metadata.take());
                });
                Ok(self.outcome(&conversation, false))
            }
            Write::Delete(id) => {
                let (conversation, now) = (self.own_message(&id, &me)?, self.now_ms());
                self.state_mut().change(&id, |message| {
                    message.content.clear();
                    message.deleted_at_ms = Some(now);
                });
                Ok(self.outcome(&conversation, false))
            }
            Write::Read { conversation_id, up_to } => {
                let head = self.view(&conversation_id, &me)?.conversation.head;
                self.state_mut().mark(&conversation_id, &me, up_to.unwrap_or(head).min(head));
                Ok(self.outcome(&conversation_id, false))
            }
            Write::OpenDirect(other) => {
                let known = self.direct_of(&me, &other);
                let existed = known.is_some();
                let id = known.unwrap_or_else(|| self.state_mut().create("direct", None, &[&me, &other]));
                Ok(self.outcome(&id, existed))
            }
            Write::OpenContext {
                context_type,
                context_id,
                participants,
                name,
                state,
            } => {
                use crate::native::Host;
                let id = self.conversation_id_of(&context_type, &context_id)?;
                let existed = self.conversation(&id).is_some();
                self.conversation_get_or_create(&context_type, &context_id, &participants, name.as_deref(), state.as_deref())?;
                Ok(self.outcome(&id, existed))
            }
            Write::AddParticipant {
                conversation_id,
                user_id,
                role,
            } => {
                self.view(&conversation_id, &me)?;
                self.state_mut().join(&conversation_id, &user_id, &role);
                Ok(self.outcome(&conversation_id, false))
            }
            Write::Update { conversation_id, .. }
            | Write::Close { conversation_id, .. }
            | Write::Archive { conversation_id, .. }
            | Write::Hide(conversation_id)
            | Write::RemoveParticipant { conversation_id, .. } => self.view(&conversation_id, &me).map(|_| self.outcome(&conversation_id, false)),
            Write::HideMessage(id) => {
                let conversation = self.message_of_user(&id)?.conversation_id;
                Ok(self.outcome(&conversation, false))
            }
            Write::React { message_id, emoji } => {
                let conversation = self.message_of_user(&message_id)?.conversation_id;
                self.state_mut().react(&message_id, &me, emoji.as_deref());
                Ok(self.outcome(&conversation, false))
            }
            Write::ReadNotification(id) => {
                let is_own = self.notifications_of_user()?.iter().any(|told| told.id == id);
                if !is_own {
                    return Err(refused("not_found", "not found"));
                }
                self.read_notifications(|told| told.id == id);
                Ok(Outcome::default())
            }
            Write::ReadAllNotifications => {
                self.read_notifications(|told| told.user_id == me);
                Ok(Outcome::default())
            }
            Write::OpenBroadcast(_) | Write::Block { .. } => Ok(Outcome::default()),
        }
    }

    pub(super) fn sign_as_user(&self, sign: Sign) -> Told<()> {
        let me = self.me()?;
        let session = match &sign {
            Sign::Typing { .. } | Sign::PresenceHint(_) => String::new(),
            _ => self.session()?,
        };
        if let Sign::Join(id) = &sign {
            self.view(id, &me)?;
        }
        let mut state = self.state_mut();
        match &sign {
            Sign::Join(id) => drop(state.joined.insert((session, id.clone()))),
            Sign::Leave(id) => drop(state.joined.remove(&(session, id.clone()))),
            Sign::EnterRoom(room) => drop(state.rooms.insert((session, room.clone()))),
            Sign::LeaveRoom(room) => drop(state.rooms.remove(&(session, room.clone()))),
            Sign::Typing { .. } | Sign::PresenceHint(_) => {}
        }
        state.signs.push(sign);
        Ok(())
    }

    pub(super) fn views_of_user(&self) -> Told<Vec<View>> {
        Ok(self.views(&self.me()?))
    }

    /// The conversations of a user, latest first.
    pub(super) fn views(&self, user: &str) -> Vec<View> {
        let ids: Vec<String> = self.state().conversations.keys().cloned().collect();
        let mut views: Vec<View> = ids.iter().filter_map(|id| self.view(id, user).ok()).collect();
        views.sort_by_key(|view| std::cmp::Reverse(view.last_message.as_ref().map_or(0, |message| message.created_at_ms)));
        views
    }

    pub(super) fn view_of_user(&self, id: &str) -> Told<View> {
        self.view(id, &self.me()?)
    }

    pub(super) fn message_of_user(&self, id: &str) -> Told<Message> {
        let message = self.message(id).ok_or_else(|| refused("not_found", "not found"))?;
        self.view(&message.conversation_id, &self.me()?).map(|_| message)
    }

    pub(super) fn direct_id_of_user(&self, other: &str) -> Told<String> {
        let me = self.me()?;
        Ok(self.direct_of(&me, other).unwrap_or_else(|| "ffffffffffffffff00000000".into()))
    }

    /// Newest first.
    pub(super) fn notifications_of_user(&self) -> Told<Vec<StoredNotification>> {
        let me = self.me()?;
        let state = self.state();
        let own = state.notifications.iter().rev().filter(|told| told.user_id == me);
        Ok(own.map(|told| state.shown(told)).collect())
    }

    fn read_notifications(&self, which: impl Fn(&super::fake::Told) -> bool) {
        let mut state = self.state_mut();
        let now_ms = state.now_ms;
        let unread = state.notifications.iter_mut().filter(|told| told.read_at_ms.is_none() && which(told));
        unread.for_each(|told| told.read_at_ms = Some(now_ms));
    }

    pub(super) fn presence_for_user(&self, users: &[String]) -> Told<Vec<Presence>> {
        self.me()?;
        let online = |user: &String| Presence {
            user_id: user.clone(),
            online: self.state().online.contains(user),
            last_seen_ms: None,
        };
        Ok(users.iter().map(online).collect())
    }

    // ---- what a test looks at ----

    /// What the plugin did as a user, in order.
    pub fn client_writes(&self) -> Vec<Write> {
        self.state().client_writes.clone()
    }

    /// Signs of life and places of connections that the plugin gave as a user, in order.
    pub fn signs(&self) -> Vec<Sign> {
        self.state().signs.clone()
    }

    /// The connection is in the room.
    pub fn is_in_room(&self, session: &str, room: &str) -> bool {
        self.state().rooms.contains(&(session.to_owned(), room.to_owned()))
    }
}
