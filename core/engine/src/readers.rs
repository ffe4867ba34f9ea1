//! Who has read which messages, and when: the steps of read marks, as far as they are kept
//! ([`haggle_store::ADVANCES_PARTICIPANTS_MAX`]).

use std::collections::BTreeMap;

use haggle_model::{ConversationId, MessageId, Millis, Seq, UserId};
use haggle_store::{SharedStore, StoreError};

/// Steps of read marks that are looked through for the messages of one question.
const ADVANCES_MAX: usize = 10_000;

/// The readers of one message, ordered by user.
pub type Readers = Vec<(UserId, Millis)>;

/// The conversation of all these messages; `None` where they stand in several, or there is none.
pub(crate) fn one_conversation(messages: &[MessageId]) -> Option<ConversationId> {
    let first = messages.first()?.conversation;
    messages.iter().all(|message| message.conversation == first).then_some(first)
}

/// Of each of these messages of one conversation everybody who has read it, with the time of the first step that reached it.
pub(crate) async fn of(store: &SharedStore, conversation: ConversationId, messages: &[MessageId]) -> Result<Vec<Readers>, StoreError> {
    let lowest = messages.iter().map(|message| message.seq).min().unwrap_or(Seq::MAX);
    let mut steps: BTreeMap<UserId, Vec<(Seq, Millis)>> = BTreeMap::new();
    for step in store.advances(conversation, lowest, ADVANCES_MAX).await? {
        steps.entry(step.user).or_default().push((step.to_seq, step.at));
    }
    let first = |steps: &[(Seq, Millis)], seq: Seq| steps.iter().find(|(to, _)| *to >= seq).map(|(_, at)| *at);
    let readers = |message: &MessageId| {
        let read = steps.iter().filter_map(|(user, steps)| Some((user.clone(), first(steps, message.seq)?)));
        read.collect()
    };
    Ok(messages.iter().map(readers).collect())
}
