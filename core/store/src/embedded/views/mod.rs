//! The answers of the views: each one is a function of a [`Snapshot`].

mod commands;
mod conversations;
mod messages;
mod personal;
mod plugins;

use std::sync::Arc;

use async_trait::async_trait;
use haggle_model::{Address, CommandId, ConversationId, KeyRing, KvChange, MessageId, Millis, PluginId, ReservationState, Seq, Shard, UserId};
use rusqlite::{Connection, OptionalExtension, Params, Row};

use super::{
    EmbeddedStore, Shared,
    applier::{About, QueuedKv, QueuedMessage},
    blocking, only,
    readers::{Reader, Sees},
    schema::{VIEWS_FILE, sql_error},
};
use crate::{
    AdvanceRow, CommandRow, ConversationRow, EventRow, InboxQuery, InboxRow, KvRow, Loaded, MemberRow, MessageRow, MessageView, NotificationRow,
    Page, PersonalRow, StoreError, TimerRow, UserRow, Views,
};

/// Small rows that may be read where the question is asked.
const POINT_ROWS_MAX: usize = 256;
/// Conversations of a user whose list may be made there.
const POINT_CONVERSATIONS_MAX: usize = 32;

/// One moment of the views and of the log behind them.
struct Snapshot<'a> {
    conn: &'a Connection,
    keys: &'a KeyRing,
}

impl Snapshot<'_> {
    fn one<T>(&self, sql: &str, params: impl Params, read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>) -> Result<Option<T>, StoreError> {
        self.conn
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_row(params, read).optional())
            .map_err(views_error)
    }

    fn all<T>(&self, sql: &str, params: impl Params, read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>) -> Result<Vec<T>, StoreError> {
        self.conn
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_map(params, read)?.collect())
            .map_err(views_error)
    }
}

fn views_error(error: rusqlite::Error) -> StoreError {
    sql_error(VIEWS_FILE, error)
}

/// A limit as SQLite takes it.
fn sql_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn from_cbor<T: for<'b> minicbor::Decode<'b, ()>>(bytes: &[u8]) -> Result<T, StoreError> {
    minicbor::decode(bytes).map_err(|error| StoreError::Corrupt(format!("{VIEWS_FILE}: {error}")))
}

impl Shared {
    /// Answers from a moment in which everything (of one conversation, or of all) is in the views that was committed when the
    /// call began.
    fn answer<T>(&self, of: About, answer: impl FnOnce(&Snapshot<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let reader = loop {
            let rebuilds = self.backlog.rebuilds();
            self.backlog.wait_applied(of)?;
            let reader = self.readers.open(Sees::Views)?;
            if self.backlog.rebuilds() == rebuilds {
                break reader;
            }
        };
        answer(&Snapshot {
            conn: reader.connection(),
            keys: &self.keys,
        })
    }
}

impl Shared {
    /// The same at once, if nothing committed is missing from the views: no wait, no other thread.
    fn answer_now<T>(&self, of: About, answer: impl FnOnce(&Snapshot<'_>) -> Result<T, StoreError>) -> Result<Result<T, StoreError>, NotNow> {
        let rebuilds = self.backlog.rebuilds();
        if !self.backlog.is_applied(of) {
            return Err(NotNow);
        }
        self.look(rebuilds, answer)
    }

    /// A plugin's key at once, with what is not in the views yet.
    fn kv_now(&self, scope: ConversationId, plugin: &PluginId, key: &str) -> Result<Result<Option<KvRow>, StoreError>, NotNow> {
        let rebuilds = self.backlog.rebuilds();
        match self.backlog.kv(scope, plugin, key).ok_or(NotNow)? {
            QueuedKv::Changed(KvChange { key, value, expires_at, .. }) => Ok(Ok(value.map(|value| KvRow { key, value, expires_at }))),
            QueuedKv::Unchanged => self.look(rebuilds, |views| views.kv_get(scope, plugin, key)),
        }
    }

    /// A message at once, with what is not in the views yet.
    fn message_now(&self, id: MessageId) -> Result<Result<Option<MessageRow>, StoreError>, NotNow> {
        let rebuilds = self.backlog.rebuilds();
        match self.backlog.message(id).ok_or(NotNow)? {
            QueuedMessage::Created(entry) => Ok(Ok(MessageView::created(&entry).map(MessageView::to_row))),
            QueuedMessage::Unchanged => self.look(rebuilds, |views| views.message(id)),
        }
    }

    /// Answers from the views as they are, unless they have been started over since there were so many rebuilds.
    fn look<T>(&self, rebuilds: u64, answer: impl FnOnce(&Snapshot<'_>) -> Result<T, StoreError>) -> Result<Result<T, StoreError>, NotNow> {
        let reader = self.reader_after(rebuilds)?;
        Ok(answer(&Snapshot {
            conn: reader.connection(),
            keys: &self.keys,
        }))
    }

    /// A reader that sees at least what was in the views after so many rebuilds. While it is open none begins.
    fn reader_after(&self, rebuilds: u64) -> Result<Reader<'_>, NotNow> {
        let reader = self.readers.try_open(Sees::Views).ok_or(NotNow)?;
        if self.backlog.rebuilds() == rebuilds { Ok(reader) } else { Err(NotNow) }
    }
}

/// An answer would have to wait.
struct NotNow;

impl EmbeddedStore {
    /// Answers a question about one row, or about few, which costs less than to hand it to another thread: here, unless it has to wait.
    async fn point<T: Send + 'static>(
        &self,
        of: About,
        answer: impl Fn(&Snapshot<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        match self.shared.answer_now(of, &answer) {
            Ok(answered) => answered,
            Err(NotNow) => self.answer(of, move |views| answer(views)).await,
        }
    }

    /// Answers a question about few rows that the entries of the user's personal conversation alone decide, or those of one other
    /// with them; it is given the personal one's key.
    async fn of_user<T: Send + 'static>(
        &self,
        user: &UserId,
        other: Option<ConversationId>,
        answer: impl Fn(&Snapshot<'_>, ConversationId) -> Result<T, StoreError> + Send + Sync + 'static,
    ) -> Result<T, StoreError> {
        let (user, first) = (user.clone(), self.shared.keys.key(&Address::Personal(user.clone())));
        let answer = Arc::new(move |views: &Snapshot<'_>, wanted: Option<ConversationId>| {
            let owner = views.owner(&user)?;
            wanted.is_none_or(|wanted| wanted == owner).then(|| answer(views, owner)).transpose()
        });
        let own = answer.clone();
        let of = other.map_or(About::Of(first), |other| About::OfBoth(first, other));
        if let Some(answered) = self.point(of, move |views| own(views, Some(first))).await? {
            return Ok(answered);
        }
        // A stranger has its key: which conversation is the user's may be about to change.
        let answered = self.answer(About::All, move |views| answer(views, None)).await?;
        Ok(answered.expect("any key is right"))
    }

    /// Answers a question about all conversations of a user. Asked at every login; most users are in a handful, and then it is a
    /// question about few rows.
    ///
    /// `answer` is given how many conversations are few, and has none for a user who is in more; asked without, it has one.
    async fn list<T: Send + 'static>(
        &self,
        user: &UserId,
        answer: impl Fn(&Snapshot<'_>, &UserId, Option<usize>) -> Result<Option<T>, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let few = |views: &Snapshot<'_>| answer(views, user, Some(POINT_CONVERSATIONS_MAX));
        if let Ok(answered) = self.shared.answer_now(About::All, few)
            && let Some(rows) = answered?
        {
            return Ok(rows);
        }
        let user = user.clone();
        let answered = self.answer(About::All, move |views| answer(views, &user, None)).await?;
        Ok(answered.expect("any number is answered"))
    }

    async fn answer<T: Send + 'static>(
        &self,
        of: About,
        answer: impl FnOnce(&Snapshot<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let _permit = self.shared.readers.permit().await;
        let shared = self.shared.clone();
        blocking(move || shared.answer(of, answer)).await
    }
}

#[async_trait]
impl Views for EmbeddedStore {
    async fn load(&self, id: ConversationId, since: Millis, commands_max: usize) -> Result<Loaded, StoreError> {
        self.answer(About::Of(id), move |views| views.load(id, since, commands_max)).await
    }

    async fn conversation(&self, id: ConversationId) -> Result<Option<ConversationRow>, StoreError> {
        self.point(About::Of(id), move |views| views.conversation(id)).await
    }

    async fn head(&self, id: ConversationId) -> Result<Option<(Seq, u32)>, StoreError> {
        self.point(About::Of(id), move |views| views.head(id)).await
    }

    async fn member(&self, id: ConversationId, user: &UserId) -> Result<Option<MemberRow>, StoreError> {
        let user = user.clone();
        self.point(About::Of(id), move |views| views.member(id, &user)).await
    }

    async fn members(&self, id: ConversationId, after: Option<&UserId>, limit: usize) -> Result<Vec<MemberRow>, StoreError> {
        let after = after.cloned();
        if limit <= POINT_ROWS_MAX {
            return self.point(About::Of(id), move |views| views.members(id, after.as_ref(), limit)).await;
        }
        self.answer(About::Of(id), move |views| views.members(id, after.as_ref(), limit)).await
    }

    async fn commands(&self, id: ConversationId, since: Millis, limit: usize) -> Result<Vec<CommandRow>, StoreError> {
        self.answer(About::Of(id), move |views| views.commands(id, since, limit)).await
    }

    async fn command(&self, id: ConversationId, command: CommandId) -> Result<Option<CommandRow>, StoreError> {
        self.point(About::Of(id), move |views| views.command(id, command)).await
    }

    async fn own_numbers(&self, id: ConversationId, user: &UserId, above_n: u32) -> Result<Vec<u32>, StoreError> {
        let user = user.clone();
        self.answer(About::Of(id), move |views| views.own_numbers(id, &user, above_n)).await
    }

    async fn deleted(&self, id: ConversationId, above_n: u32) -> Result<Vec<(u32, UserId)>, StoreError> {
        self.answer(About::Of(id), move |views| views.deleted(id, above_n)).await
    }

    async fn events(&self, id: ConversationId, after: Seq, limit: usize) -> Result<Vec<EventRow>, StoreError> {
        self.answer(About::Of(id), move |views| views.events(id, after, limit)).await
    }

    async fn messages(&self, id: ConversationId, page: Page, limit: usize, viewer: Option<&UserId>) -> Result<Vec<MessageRow>, StoreError> {
        let viewer = viewer.cloned();
        let of = if viewer.is_none() { About::Of(id) } else { About::All };
        self.answer(of, move |views| views.messages(id, page, limit, viewer.as_ref())).await
    }

    async fn message(&self, id: MessageId) -> Result<Option<MessageRow>, StoreError> {
        if let Ok(answered) = self.shared.message_now(id) {
            return answered;
        }
        self.answer(About::Of(id.conversation), move |views| views.message(id)).await
    }

    async fn is_hidden(&self, user: &UserId, id: MessageId) -> Result<bool, StoreError> {
        let user = user.clone();
        self.point(About::All, move |views| views.is_hidden(&user, id)).await
    }

    async fn advances(&self, id: ConversationId, from_seq: Seq, limit: usize) -> Result<Vec<AdvanceRow>, StoreError> {
        self.answer(About::Of(id), move |views| views.advances(id, from_seq, limit)).await
    }

    async fn personal(&self, user: &UserId, id: ConversationId) -> Result<PersonalRow, StoreError> {
        self.of_user(user, None, move |views, owner| views.personal(owner, id)).await
    }

    async fn broadcasts(&self, limit: usize) -> Result<Vec<ConversationId>, StoreError> {
        self.answer(About::All, move |views| views.broadcasts(limit)).await
    }

    async fn inbox(&self, user: &UserId, query: InboxQuery) -> Result<Vec<InboxRow>, StoreError> {
        self.list(user, move |views, user, few| views.inbox(user, query, few)).await
    }

    async fn companions(
        &self,
        user: &UserId,
        conversations_max: usize,
        members_max: usize,
    ) -> Result<Vec<(ConversationId, Vec<UserId>)>, StoreError> {
        self.list(user, move |views, user, few| views.companions(user, conversations_max, members_max, few))
            .await
    }

    async fn inbox_row(&self, user: &UserId, id: ConversationId) -> Result<Option<InboxRow>, StoreError> {
        let of = user.clone();
        self.of_user(user, Some(id), move |views, owner| views.inbox_row(&of, owner, id)).await
    }

    async fn kv_get(&self, scope: ConversationId, plugin: &PluginId, key: &str) -> Result<Option<KvRow>, StoreError> {
        if let Ok(answered) = self.shared.kv_now(scope, plugin, key) {
            return answered;
        }
        let (plugin, key) = (plugin.clone(), key.to_string());
        self.answer(About::Of(scope), move |views| views.kv_get(scope, &plugin, &key)).await
    }

    async fn kv_list(
        &self,
        scope: ConversationId,
        plugin: &PluginId,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<KvRow>, StoreError> {
        let (plugin, prefix, after) = (plugin.clone(), prefix.to_string(), after.map(str::to_string));
        self.answer(About::Of(scope), move |views| {
            views.kv_list(scope, &plugin, &prefix, after.as_deref(), limit)
        })
        .await
    }

    async fn reservation(&self, scope: ConversationId, plugin: &PluginId, key: &str) -> Result<Option<ReservationState>, StoreError> {
        let (plugin, key) = (plugin.clone(), key.to_string());
        self.point(About::Of(scope), move |views| views.reservation(scope, &plugin, &key)).await
    }

    async fn timers_due(&self, shard: Shard, until: Millis, limit: usize) -> Result<Vec<TimerRow>, StoreError> {
        only(shard)?;
        self.answer(About::All, move |views| views.timers_due(until, limit)).await
    }

    async fn timer(&self, id: ConversationId, plugin: &PluginId, name: &str) -> Result<Option<TimerRow>, StoreError> {
        let (plugin, name) = (plugin.clone(), name.to_string());
        self.point(About::Of(id), move |views| views.timer(id, &plugin, &name)).await
    }

    async fn user(&self, user: &UserId) -> Result<Option<UserRow>, StoreError> {
        let id = user.clone();
        self.of_user(user, None, move |views, owner| views.user(owner, &id)).await
    }

    async fn blocks(&self, user: &UserId) -> Result<Vec<UserId>, StoreError> {
        let user = user.clone();
        self.answer(About::All, move |views| views.blocks(&user)).await
    }

    async fn notifications(&self, user: &UserId, before: Option<Seq>, unread_only: bool, limit: usize) -> Result<Vec<NotificationRow>, StoreError> {
        let user = user.clone();
        self.answer(About::All, move |views| views.notifications(&user, before, unread_only, limit))
            .await
    }

    async fn notification(&self, user: &UserId, seq: Seq) -> Result<Option<NotificationRow>, StoreError> {
        self.of_user(user, None, move |views, owner| views.notification(owner, seq)).await
    }

    async fn notifications_unread(&self, user: &UserId) -> Result<u32, StoreError> {
        self.of_user(user, None, move |views, owner| views.notifications_unread(owner)).await
    }

    async fn rebuild_views(&self) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        blocking(move || shared.rebuild_views()).await
    }
}
