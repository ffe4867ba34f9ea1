//! The contract of a store, as functions that every back end must pass.
//!
//! A back end gives an [`Opener`] and runs [`store_suite!`](crate::store_suite). A function gets the opener of a store that is
//! its own and empty; calling it again after dropping the store opens the same data. Random histories come from
//! [`History`] with a seed that a failure prints.

mod cursors;
mod history;
mod log;
mod random;
mod views;

use std::{pin::Pin, sync::Arc};

use haggle_model::{Address, Content, ConversationCreated, ConversationId, Effects, Entry, Event, KeyRing, Millis, Pos, Seq, Shard, UserId};

pub use self::{
    cursors::{cursors_come_back_with_what_they_hold, failed_deliveries_are_kept_until_removed, last_seen_is_the_latest},
    history::{History, Random},
    log::{
        a_batch_is_whole_or_not_there, a_stale_tail_is_fenced, an_empty_append_changes_nothing, deleted_text_is_erased, positions_are_dense,
        the_log_survives_reopening, time_must_increase,
    },
    random::{random_histories_give_the_answers_of_the_model, random_histories_survive_reopening_and_rebuilding},
    views::{
        a_broadcast_is_read_by_everybody, a_conversation_says_what_its_events_say, a_message_shows_its_present_state,
        a_user_has_a_profile_blocks_and_personal_rows, commands_are_found_again, entries_are_in_the_views_at_once,
        events_end_before_the_first_missing_seq, kv_timers_and_reservations_are_absolute, marks_merge_by_maximum, members_come_and_go,
        messages_page_in_both_directions, notifications_collapse_and_are_read, the_inbox_is_sorted_and_filtered,
        unread_counts_leave_out_own_and_deleted,
    },
};
use crate::{Log, SharedStore, Tail};

/// A store that is being opened.
pub type Opening = Pin<Box<dyn Future<Output = SharedStore>>>;
/// Opens the store of one test.
pub type Opener = Box<dyn Fn() -> Opening>;

/// Wall clock of the first entry that a test writes.
pub const START: Millis = 1_750_000_000_000;

/// Runs a test to its end.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime needs no more than a thread")
        .block_on(test)
}

/// Makes one test of every function of the suite. The argument makes the [`Opener`] of one test.
#[macro_export]
macro_rules! store_suite {
    ($opener:expr) => {
        $crate::store_suite! { $opener;
            a_batch_is_whole_or_not_there
            a_broadcast_is_read_by_everybody
            a_conversation_says_what_its_events_say
            a_message_shows_its_present_state
            a_stale_tail_is_fenced
            a_user_has_a_profile_blocks_and_personal_rows
            an_empty_append_changes_nothing
            commands_are_found_again
            cursors_come_back_with_what_they_hold
            deleted_text_is_erased
            entries_are_in_the_views_at_once
            events_end_before_the_first_missing_seq
            failed_deliveries_are_kept_until_removed
            kv_timers_and_reservations_are_absolute
            last_seen_is_the_latest
            marks_merge_by_maximum
            members_come_and_go
            messages_page_in_both_directions
            notifications_collapse_and_are_read
            positions_are_dense
            random_histories_give_the_answers_of_the_model
            random_histories_survive_reopening_and_rebuilding
            the_inbox_is_sorted_and_filtered
            the_log_survives_reopening
            time_must_increase
            unread_counts_leave_out_own_and_deleted
        }
    };
    ($opener:expr; $($test:ident)*) => {
        $(#[test]
        fn $test() {
            let opener: $crate::suite::Opener = $opener;
            $crate::suite::run($crate::suite::$test(&opener));
        })*
    };
}

/// An entry of the server itself without a command and effects, at [`START`] + `ts` ms.
pub fn entry(ts: u64, conversation: ConversationId, seq: Seq, n: u32, event: Event) -> Arc<Entry> {
    Arc::new(bare(ts, conversation, seq, n, event))
}

fn bare(ts: u64, conversation: ConversationId, seq: Seq, n: u32, event: Event) -> Entry {
    Entry {
        ts,
        at: START + ts as Millis,
        conversation,
        seq,
        n,
        actor: None,
        command: None,
        digest: 0,
        origin: Vec::new(),
        event,
        effects: Effects::default(),
        redacted: false,
    }
}

/// A text that counts.
fn text(text: &str) -> Content {
    Content {
        kind: "text".to_string(),
        text: text.to_string(),
        countable: true,
        ..Content::default()
    }
}

/// Writes to a store, keeping count: one conversation after another gets its seqs and numbers.
struct Pen {
    store: SharedStore,
    keys: KeyRing,
    ts: u64,
    heads: std::collections::BTreeMap<ConversationId, (Seq, u32)>,
}

impl Pen {
    async fn new(open: &Opener) -> Pen {
        let store = open().await;
        let keys = KeyRing::new(store.installation_secret().await.unwrap());
        Pen {
            store,
            keys,
            ts: 0,
            heads: Default::default(),
        }
    }

    /// The key of the user's personal conversation.
    fn personal(&self, user: &str) -> ConversationId {
        self.keys.key(&Address::Personal(UserId::from(user)))
    }

    /// The next entry of the conversation.
    fn entry(&mut self, conversation: ConversationId, actor: &str, event: Event) -> Entry {
        self.ts += 1;
        let (head, n) = self.heads.entry(conversation).or_default();
        let seq = if event.is_sequenced() {
            *head += 1;
            *head
        } else {
            0
        };
        *n += u32::from(matches!(&event, Event::MessageCreated(content) if content.countable));
        Entry {
            actor: Some(UserId::from(actor)),
            ..bare(self.ts, conversation, seq, *n, event)
        }
    }

    async fn append(&mut self, entry: Entry) -> Arc<Entry> {
        let entry = Arc::new(entry);
        let shard = entry.conversation.shard(self.store.shards());
        let tail = self.store.tail(shard).await.unwrap();
        self.store.append(shard, tail, vec![entry.clone()]).await.unwrap();
        entry
    }

    /// Appends one event.
    async fn write(&mut self, conversation: ConversationId, actor: &str, event: Event) -> Arc<Entry> {
        let entry = self.entry(conversation, actor, event);
        self.append(entry).await
    }

    /// Makes the conversation at `address` with these members.
    async fn create(&mut self, address: Address, members: &[&str]) -> ConversationId {
        let id = self.keys.key(&address);
        let creator = members.first().map(|user| UserId::from(*user));
        let created = ConversationCreated {
            address,
            creator,
            name: Some("a name".to_string()),
            avatar: None,
            state: None,
        };
        let actor = members.first().copied().unwrap_or("nobody");
        self.write(id, actor, Event::ConversationCreated(created)).await;
        for user in members {
            self.write(
                id,
                actor,
                Event::ParticipantJoined {
                    user: UserId::from(*user),
                    role: Default::default(),
                },
            )
            .await;
        }
        id
    }

    /// A direct conversation of two users.
    async fn direct(&mut self, a: &str, b: &str) -> ConversationId {
        self.create(Address::direct(&UserId::from(a), &UserId::from(b)), &[a, b]).await
    }

    /// Sends a countable text.
    async fn say(&mut self, conversation: ConversationId, actor: &str, said: &str) -> Seq {
        self.write(conversation, actor, Event::MessageCreated(text(said))).await.seq
    }
}

/// Every entry of a shard, page after page.
pub async fn whole_log(log: &(impl Log + ?Sized), shard: Shard) -> Vec<(Pos, Arc<Entry>)> {
    let mut entries: Vec<(Pos, Arc<Entry>)> = Vec::new();
    loop {
        let after = entries.last().map_or(Pos(0), |(pos, _)| *pos);
        match log.read(shard, after, usize::MAX).await.unwrap() {
            page if page.is_empty() => return entries,
            page => entries.extend(page),
        }
    }
}

async fn tail_of(store: &SharedStore) -> Tail {
    store.tail(Shard(0)).await.unwrap()
}
