//! Who has read which messages, and when: the steps of read marks, as far as they are kept
//! ([`haggle_store::ADVANCES_PARTICIPANTS_MAX`]).

use std::collections::BTreeMap;

use haggle_model::{ConversationId, MessageId, Millis, Seq, UserId};
use haggle_store::{SharedStore, StoreError};

/// Steps of read marks that are looked through for the messages of one question: in a large conversation in which much happened
/// since, who read them late may be missing.
const STEPS_MAX: usize = 25_600;

/// The readers of one message, ordered by user.
pub type Readers = Vec<(UserId, Millis)>;

/// The steps of everybody's read mark in a conversation, from some message on.
#[derive(Clone, Debug, Default)]
pub struct ReadSteps(BTreeMap<UserId, Vec<(Seq, Millis)>>);

impl ReadSteps {
    /// Those that reached this seq or a later one.
    pub(crate) async fn load(store: &SharedStore, conversation: ConversationId, from: Seq) -> Result<ReadSteps, StoreError> {
        let mut steps = ReadSteps::default();
        for step in store.advances(conversation, from, STEPS_MAX).await? {
            steps.0.entry(step.user).or_default().push((step.to_seq, step.at));
        }
        Ok(steps)
    }

    /// Everybody who has read a message, with the time of the first step that reached it.
    pub fn readers(&self, message: Seq) -> Readers {
        let first = |steps: &[(Seq, Millis)]| steps.iter().find(|(to, _)| *to >= message).map(|(_, at)| *at);
        let readers = self.0.iter().filter_map(|(user, steps)| Some((user.clone(), first(steps)?)));
        readers.collect()
    }
}

/// The conversation of all these messages; `None` where they stand in several, or there is none.
pub(crate) fn one_conversation(messages: &[MessageId]) -> Option<ConversationId> {
    let first = messages.first()?.conversation;
    messages.iter().all(|message| message.conversation == first).then_some(first)
}

/// The readers of each of these messages of one conversation.
pub(crate) async fn of(store: &SharedStore, conversation: ConversationId, messages: &[MessageId]) -> Result<Vec<Readers>, StoreError> {
    let lowest = messages.iter().map(|message| message.seq).min().unwrap_or(Seq::MAX);
    let steps = ReadSteps::load(store, conversation, lowest).await?;
    Ok(messages.iter().map(|message| steps.readers(message.seq)).collect())
}
