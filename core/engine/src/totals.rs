//! Sums over a user's list of conversations.

use haggle_model::{ConversationId, Millis, UserId};
use haggle_store::{InboxQuery, InboxRow, SharedStore, StoreError};

/// Conversations that are gone through: in a longer list only the latest count.
const CONVERSATIONS_MAX: usize = 1000;
/// Conversations that one read brings.
const PAGE: usize = 100;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub conversations: u32,
    pub unread: u32,
}

/// Where a list goes on after this row.
pub(crate) fn place_of(row: &InboxRow) -> (Millis, ConversationId) {
    (row.conversation.last_message_at, row.conversation.id)
}

/// Of the conversations in the user's list; archived ones, others, or (`None`) all.
pub(crate) async fn of(store: &SharedStore, user: &UserId, archived: Option<bool>) -> Result<Totals, StoreError> {
    let mut totals = Totals::default();
    let mut before = None;
    while (totals.conversations as usize) < CONVERSATIONS_MAX {
        let query = InboxQuery {
            archived,
            before,
            limit: PAGE,
        };
        let rows = store.inbox(user, query).await?;
        totals.conversations += rows.len() as u32;
        totals.unread = rows.iter().fold(totals.unread, |sum, row| sum.saturating_add(row.unread));
        match rows.last() {
            Some(last) if rows.len() == PAGE => before = Some(place_of(last)),
            _ => break,
        }
    }
    Ok(totals)
}
