//! Stores around stores: each wrapper implements the same traits and adds one thing.
//!
//! A wrapper says in its `around` what happens before and after every operation, and in its own `append` and `recover` what is
//! special about them; the macro `decorate` writes the forty other lines.

mod faulty;
mod metered;
mod timeout;

pub use faulty::{Faults, Faulty, When};
pub use metered::{METRICS, Metered};
pub use timeout::Timeout;

/// Implements the store's traits for a type with `inner: SharedStore`, `async fn around(&self, operation, future)`, and
/// `async fn append_around(..)`, `async fn recover_around(..)` with the signatures of [`Log::append`](crate::Log::append) and
/// [`Log::recover`](crate::Log::recover).
macro_rules! decorate {
    ($wrapper:ident) => {
        $crate::decorate::forward! { $wrapper as $crate::Log => {
            fn shards(&self) -> u16 {
                self.inner.shards()
            }

            fn durability(&self) -> $crate::Durability {
                self.inner.durability()
            }

            async fn append(&self, shard: Shard, tail: $crate::Tail, entries: Vec<Arc<Entry>>) -> Result<$crate::Tail, $crate::AppendError> {
                self.append_around(shard, tail, entries).await
            }

            async fn recover(&self, shard: Shard) -> Result<$crate::Tail, StoreError> {
                self.recover_around(shard).await
            }
        } {
            installation_secret() -> [u8; 32];
            tail(shard: Shard) -> $crate::Tail;
            read(shard: Shard, after: Pos, limit: usize) -> Vec<(Pos, Arc<Entry>)>;
            erase_deleted(deleted_before: Millis, limit: usize) -> usize;
        } }

        $crate::decorate::forward! { $wrapper as $crate::Views => {} {
            load(id: ConversationId, since: Millis, commands_max: usize) -> $crate::Loaded;
            conversation(id: ConversationId) -> Option<$crate::ConversationRow>;
            head(id: ConversationId) -> Option<(Seq, u32)>;
            member(id: ConversationId, user: &UserId) -> Option<$crate::MemberRow>;
            members(id: ConversationId, after: Option<&UserId>, limit: usize) -> Vec<$crate::MemberRow>;
            commands(id: ConversationId, since: Millis, limit: usize) -> Vec<$crate::CommandRow>;
            command(id: ConversationId, command: CommandId) -> Option<$crate::CommandRow>;
            own_numbers(id: ConversationId, user: &UserId, above_n: u32) -> Vec<u32>;
            deleted(id: ConversationId, above_n: u32) -> Vec<(u32, UserId)>;
            events(id: ConversationId, after: Seq, limit: usize) -> Vec<$crate::EventRow>;
            messages(id: ConversationId, page: $crate::Page, limit: usize, viewer: Option<&UserId>) -> Vec<$crate::MessageRow>;
            message(id: MessageId) -> Option<$crate::MessageRow>;
            is_hidden(user: &UserId, id: MessageId) -> bool;
            advances(id: ConversationId, from_seq: Seq, limit: usize) -> Vec<$crate::AdvanceRow>;
            personal(user: &UserId, id: ConversationId) -> $crate::PersonalRow;
            broadcasts(limit: usize) -> Vec<ConversationId>;
            inbox(user: &UserId, query: $crate::InboxQuery) -> Vec<$crate::InboxRow>;
            inbox_row(user: &UserId, id: ConversationId) -> Option<$crate::InboxRow>;
            companions(user: &UserId, conversations_max: usize, members_max: usize) -> Vec<(ConversationId, Vec<UserId>)>;
            kv_get(scope: ConversationId, plugin: &PluginId, key: &str) -> Option<$crate::KvRow>;
            kv_list(scope: ConversationId, plugin: &PluginId, prefix: &str, after: Option<&str>, limit: usize) -> Vec<$crate::KvRow>;
            reservation(scope: ConversationId, plugin: &PluginId, key: &str) -> Option<ReservationState>;
            timers_due(shard: Shard, until: Millis, limit: usize) -> Vec<$crate::TimerRow>;
            timer(id: ConversationId, plugin: &PluginId, name: &str) -> Option<$crate::TimerRow>;
            user(user: &UserId) -> Option<$crate::UserRow>;
            blocks(user: &UserId) -> Vec<UserId>;
            notifications(user: &UserId, before: Option<Seq>, unread_only: bool, limit: usize) -> Vec<$crate::NotificationRow>;
            notification(user: &UserId, seq: Seq) -> Option<$crate::NotificationRow>;
            notifications_unread(user: &UserId) -> u32;
            rebuild_views() -> ();
        } }

        $crate::decorate::forward! { $wrapper as $crate::Cursors => {} {
            cursors(shard: Shard) -> Vec<(String, $crate::Cursor)>;
            save_cursors(shard: Shard, cursors: Vec<(String, $crate::Cursor)>) -> ();
            add_failed(failed: $crate::FailedDelivery) -> u64;
            failed(after: u64, limit: usize) -> Vec<$crate::FailedDelivery>;
            failed_count() -> u64;
            remove_failed(id: u64) -> bool;
            save_last_seen(seen: Vec<(UserId, Millis)>) -> ();
            last_seen(user: &UserId) -> Option<Millis>;
        } }
    };
}

/// Implements a trait: some methods as they stand, the others go to the inner store through `around`.
macro_rules! forward {
    ($wrapper:ident as $trait:path => { $($own:tt)* } { $($operation:ident($($name:ident: $type:ty),*) -> $answer:ty;)* }) => {
        #[async_trait::async_trait]
        impl $trait for $wrapper {
            $($own)*

            $(async fn $operation(&self, $($name: $type),*) -> Result<$answer, StoreError> {
                self.around(stringify!($operation), self.inner.$operation($($name),*)).await
            })*
        }
    };
}

use {decorate, forward};

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{MemoryStore, SharedStore, suite::Opener};

    /// All of them around one store.
    fn opener() -> Opener {
        let (faulty, _) = Faulty::new(Arc::new(MemoryStore::new(2)));
        let timeout = Timeout::new(Arc::new(faulty), Duration::from_secs(60));
        let store: SharedStore = Arc::new(Metered::new(Arc::new(timeout)));
        Box::new(move || {
            let store = store.clone();
            Box::pin(async move { store })
        })
    }

    crate::store_suite!(opener());
}
