//! What a decision looks at, and what comes of it.

use std::sync::Arc;

use haggle_model::{Address, CommandId, ConversationId, ConversationKind, Millis, PluginId, Seq};

use crate::{
    Actor, Inner, Refusal,
    conversation::Turn,
    ports::{Call, Facts, Plan},
    scope::{self, HandlerScope},
    state::State,
    transaction::Transaction,
};

/// What a turn decided.
pub(super) enum Decided {
    Write(Box<Transaction>),
    /// Everything is as asked for already.
    Nothing {
        seq: Seq,
        existed: bool,
        answer: Option<String>,
    },
}

impl Decided {
    pub(super) fn write(transaction: Transaction) -> Result<Decided, Refusal> {
        Ok(Decided::Write(Box::new(transaction)))
    }

    pub(super) const UNCHANGED: Decided = Decided::Nothing {
        seq: 0,
        existed: true,
        answer: None,
    };
}

/// Everything a decision looks at.
pub(super) struct Context<'a> {
    pub(super) turn: &'a Turn,
    pub(super) plan: &'a dyn Plan,
    pub(super) actor: &'a Actor,
    /// The client's own id of the request.
    pub(super) client_id: Option<&'a str>,
    pub(super) trace_id: &'a str,
    pub(super) address: Option<&'a Address>,
    pub(super) command: CommandId,
    pub(super) now: Millis,
    /// Plugins that led to it, oldest first.
    pub(super) origin: Vec<PluginId>,
    pub(super) countable: bool,
    /// Made when the first handler runs.
    pub(super) scope: std::sync::OnceLock<HandlerScope>,
}

impl Context<'_> {
    pub(super) fn engine(&self) -> &Arc<Inner> {
        &self.turn.engine
    }

    pub(super) fn state<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        self.turn.conversation.with_state(read)
    }

    pub(super) fn id(&self) -> ConversationId {
        self.turn.conversation.id
    }

    pub(super) fn scope(&self) -> &HandlerScope {
        self.scope.get_or_init(|| {
            let call = Call {
                command: self.command,
                actor: self.actor.clone(),
                trace_id: self.trace_id.to_owned(),
                now: self.now,
                conversation: Some(self.id()),
                origin: self.origin.clone(),
            };
            HandlerScope::new(self.engine(), &self.turn.conversation, scope::Place::InTurn, call)
        })
    }

    pub(super) fn facts<'b>(&'b self, kind: ConversationKind, message: Option<&'b str>) -> Facts<'b> {
        Facts {
            conversation: kind,
            message,
            dialect: &self.actor.dialect,
        }
    }

    pub(super) fn kind(&self) -> ConversationKind {
        self.state(|state| state.address().or(self.address).map_or(ConversationKind::Personal, Address::kind))
    }

    /// Adds what the handlers wrote.
    pub(super) fn join(&self, mut transaction: Transaction) -> impl Future<Output = Result<Decided, Refusal>> {
        for item in &mut transaction.items {
            item.origin.clone_from(&self.origin);
        }
        let transaction = Box::new(transaction); // now: the future would carry all of it
        async move {
            match self.scope.get().filter(|scope| scope.has_writes()) {
                Some(scope) => Decided::write(Box::pin(scope.join(self.plan, *transaction)).await?),
                None => Ok(Decided::Write(transaction)),
            }
        }
    }
}
