//! One call of one handler, from admission to answer.
//!
//! A component call that has begun is never dropped half way: it runs to its end or to its epoch deadline. What is ready at
//! the first poll is answered in place; everything else goes on in a task of its own, so that a caller who leaves takes
//! nothing with it but the answer.

use std::{
    future::{Future, poll_fn},
    sync::Arc,
    task::Poll,
    time::Instant,
};

use haggle_engine::ports::{Hook, HostCalls, HttpResponse};
use haggle_model::ConversationUpdate;
use wasmtime::Store;

use crate::{
    bindings::{Guests, exports, wit},
    convert::{self, Rewritten},
    fault::{CallError, Kind, classify, truncate},
    metrics::Outcome,
    plugin::Plugin,
    pool::Lease,
    shares::Share,
    state::State,
};

/// Who calls, for what, until when.
pub(crate) struct Session {
    pub(crate) guest: Option<Arc<dyn HostCalls>>,
    pub(crate) call: Arc<wit::Call>,
    pub(crate) began: Instant,
    pub(crate) deadline: Instant,
    /// The deadline is the hook's own, not what others before it in the scope have left.
    pub(crate) is_own_deadline: bool,
}

/// One kind of call.
pub(crate) trait Handler: Send + Sync + 'static {
    /// What the component returns.
    type Raw: Send;
    /// What it means, checked.
    type Answer: Send + 'static;

    fn hook(&self) -> Hook;

    /// Of which instances it gets one.
    fn share(&self) -> Share {
        Share::Turn
    }

    /// Enters the component.
    fn run(&self, guests: &Guests, store: &mut Store<State>, call: &wit::Call) -> impl Future<Output = wasmtime::Result<Self::Raw>> + Send;

    /// Bytes of the answer's texts.
    fn bytes(raw: &Self::Raw) -> usize;

    /// Checks the answer. An error is an answer that breaks the contract.
    fn judge(&self, raw: Self::Raw) -> Result<(Outcome, Self::Answer), String>;
}

/// Calls `handler` of `plugin`. Breaker, pool, budgets, metrics and logs are seen to.
pub(crate) async fn call<H: Handler>(plugin: &Arc<Plugin>, session: Session, handler: H) -> Result<H::Answer, CallError> {
    let hook = handler.hook();
    let lease = match admit(plugin, hook, handler.share(), &session).await {
        Ok(lease) => lease,
        Err(error) => {
            plugin.meters(hook).count(Outcome::Fault(error.kind));
            return Err(error);
        }
    };
    let mut running = Box::pin(perform(plugin.clone(), lease, session, handler));
    match poll_fn(|context| Poll::Ready(running.as_mut().poll(context))).await {
        Poll::Ready(answer) => answer,
        Poll::Pending => match tokio::spawn(running).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::new(Kind::Gone, "the server is shutting down")),
        },
    }
}

async fn admit(plugin: &Arc<Plugin>, hook: Hook, share: Share, session: &Session) -> Result<Lease, CallError> {
    let Session { began, deadline, .. } = *session;
    let breaker = plugin.breaker(hook);
    breaker
        .admit(began)
        .map_err(|left| CallError::new(Kind::Breaker, format!("failed too often; called again in {} ms", left.as_millis())))?;
    if began >= deadline {
        breaker.undecided();
        return Err(CallError::new(Kind::Timeout, "no time was left to call it"));
    }
    let lease = plugin.pool.lease(share, began, deadline).await;
    lease.inspect_err(|_| breaker.undecided())
}

/// Owns everything that it needs, so it can outlive its caller.
async fn perform<H: Handler>(plugin: Arc<Plugin>, mut lease: Lease, session: Session, handler: H) -> Result<H::Answer, CallError> {
    let hook = handler.hook();
    let since = lease.since();
    let ended = attempt(&plugin, &mut lease, &session, &handler).await;
    let now = Instant::now();
    plugin.meters(hook).time((now - since).as_secs_f64());
    let result = match ended {
        Ended::Answer(answer) => {
            lease.give_back();
            match now > session.deadline {
                true => Err(CallError::new(Kind::Timeout, "it answered after its deadline")),
                false => answer,
            }
        }
        Ended::Broken(error) => {
            lease.spoil();
            Err(error)
        }
    };
    match result {
        Ok((outcome, answer)) => {
            plugin.meters(hook).count(outcome);
            note_success(&plugin, hook);
            Ok(answer)
        }
        Err(error) => {
            plugin.meters(hook).count(Outcome::Fault(error.kind));
            note_failure(&plugin, hook, &error, &session);
            Err(error)
        }
    }
}

/// How a call ended, as far as the instance is concerned.
enum Ended<T> {
    /// It came back. The answer may still be a bad one.
    Answer(Result<(Outcome, T), CallError>),
    /// It did not: nothing can enter this store again.
    Broken(CallError),
}

async fn attempt<H: Handler>(plugin: &Plugin, lease: &mut Lease, session: &Session, handler: &H) -> Ended<H::Answer> {
    let warm = match lease.instance(session.deadline).await {
        Ok(warm) => warm,
        Err(error) => return Ended::Broken(error),
    };
    warm.begin(handler.hook(), session);
    let raw = handler.run(&warm.guests, &mut warm.store, &session.call).await;
    let said = warm.end();
    let raw = match raw {
        Ok(raw) => raw,
        Err(error) => return Ended::Broken(classify(&error, said.as_deref())),
    };
    let (bytes, bytes_max) = (H::bytes(&raw), plugin.profile.limits.output_bytes as usize);
    if bytes > bytes_max {
        return Ended::Answer(Err(CallError::new(
            Kind::Output,
            format!("the answer has {bytes} bytes; at most {bytes_max}"),
        )));
    }
    Ended::Answer(handler.judge(raw).map_err(|text| CallError::new(Kind::Output, text)))
}

fn note_success(plugin: &Plugin, hook: Hook) {
    let breaker = plugin.breaker(hook);
    let was_open = breaker.is_open();
    breaker.succeeded();
    if was_open {
        plugin.meters(hook).breaker(false);
        tracing::info!(plugin = plugin.id().as_str(), hook = hook.as_str(), "plugin hook works again");
    }
}

fn note_failure(plugin: &Plugin, hook: Hook, error: &CallError, session: &Session) {
    let trace_id = session.call.trace_id.as_deref().unwrap_or_default();
    let was_hurried = error.kind == Kind::Timeout && !session.is_own_deadline;
    let (id, hook_name, kind, message) = (plugin.id().as_str(), hook.as_str(), error.kind.as_str(), error.message.as_str());
    tracing::warn!(plugin = id, hook = hook_name, kind, trace_id, message, "plugin call failed");
    if was_hurried || !error.kind.is_fault() {
        plugin.breaker(hook).undecided();
    } else if plugin.breaker(hook).failed(Instant::now()) {
        plugin.meters(hook).breaker(true);
        tracing::warn!(
            plugin = id,
            hook = hook_name,
            "plugin hook failed too often and is not called for a while"
        );
    }
}

// ---- the kinds of calls --------------------------------------------------------------------------------------------

/// What a before-hook decided.
#[derive(Debug)]
pub(crate) enum Decided<R> {
    Continue,
    Replace(R),
    Reject(wit::Rejection),
}

/// Longest code and sentence of a rejection, in bytes.
const REJECTION_CODE_BYTES_MAX: usize = 64;
const REJECTION_MESSAGE_BYTES_MAX: usize = 1024;

pub(crate) fn rejection(mut rejection: wit::Rejection) -> wit::Rejection {
    truncate(&mut rejection.code, REJECTION_CODE_BYTES_MAX);
    truncate(&mut rejection.message, REJECTION_MESSAGE_BYTES_MAX);
    if rejection.code.is_empty() {
        rejection.code = "rejected".to_owned();
    }
    rejection
}

fn rejection_bytes(rejection: &wit::Rejection) -> usize {
    rejection.code.len() + rejection.message.len()
}

fn verdict(verdict: wit::Verdict) -> (Outcome, Decided<std::convert::Infallible>) {
    match verdict {
        wit::Verdict::Continue => (Outcome::Continue, Decided::Continue),
        wit::Verdict::Reject(why) => (Outcome::Reject, Decided::Reject(rejection(why))),
    }
}

fn verdict_bytes(verdict: &wit::Verdict) -> usize {
    match verdict {
        wit::Verdict::Continue => 0,
        wit::Verdict::Reject(why) => rejection_bytes(why),
    }
}

/// The answer of an after-hook or timer: done, or to be tried again.
type Told = Result<(), String>;

fn told(raw: Told) -> (Outcome, Told) {
    let outcome = if raw.is_ok() { Outcome::Ok } else { Outcome::Fault(Kind::Error) };
    (outcome, raw)
}

fn told_bytes(raw: &Told) -> usize {
    raw.as_ref().err().map_or(0, String::len)
}

/// The typed function of a hook. Registries only call hooks that a component exports.
macro_rules! guest {
    ($guests:ident.$field:ident) => {
        $guests.$field.as_ref().expect("only exported hooks are called")
    };
}

pub(crate) struct BeforeMessage(pub(crate) Arc<wit::Draft>);

impl Handler for BeforeMessage {
    type Raw = wit::Decision;
    type Answer = Decided<Rewritten>;

    fn hook(&self) -> Hook {
        Hook::BeforeMessage
    }

    async fn run(&self, guests: &Guests, store: &mut Store<State>, call: &wit::Call) -> wasmtime::Result<wit::Decision> {
        guest!(guests.before_message).call_handle(store, call, &self.0).await
    }

    fn bytes(raw: &wit::Decision) -> usize {
        match raw {
            wit::Decision::Continue => 0,
            wit::Decision::Replace(rewrite) => convert::rewrite_bytes(rewrite),
            wit::Decision::Reject(why) => rejection_bytes(why),
        }
    }

    fn judge(&self, raw: wit::Decision) -> Result<(Outcome, Self::Answer), String> {
        Ok(match raw {
            wit::Decision::Continue => (Outcome::Continue, Decided::Continue),
            wit::Decision::Reject(why) => (Outcome::Reject, Decided::Reject(rejection(why))),
            wit::Decision::Replace(rewrite) => {
                let rewritten = Rewritten::check(rewrite).map_err(|error| error.to_string())?;
                (Outcome::Replace, Decided::Replace(rewritten))
            }
        })
    }
}

pub(crate) struct BeforeConversation(pub(crate) Arc<wit::ConversationDraft>);

impl Handler for BeforeConversation {
    type Raw = wit::ConversationDecision;
    type Answer = Decided<ConversationUpdate>;

    fn hook(&self) -> Hook {
        Hook::BeforeConversation
    }

    async fn run(&self, guests: &Guests, store: &mut Store<State>, call: &wit::Call) -> wasmtime::Result<Self::Raw> {
        guest!(guests.before_conversation).call_handle(store, call, &self.0).await
    }

    fn bytes(raw: &Self::Raw) -> usize {
        match raw {
            wit::ConversationDecision::Continue => 0,
            wit::ConversationDecision::Replace(rewrite) => convert::conversation_rewrite_bytes(rewrite),
            wit::ConversationDecision::Reject(why) => rejection_bytes(why),
        }
    }

    fn judge(&self, raw: Self::Raw) -> Result<(Outcome, Self::Answer), String> {
        Ok(match raw {
            wit::ConversationDecision::Continue => (Outcome::Continue, Decided::Continue),
            wit::ConversationDecision::Reject(why) => (Outcome::Reject, Decided::Reject(rejection(why))),
            wit::ConversationDecision::Replace(rewrite) => {
                let rewritten = convert::conversation_update(rewrite).map_err(|error| error.to_string())?;
                (Outcome::Replace, Decided::Replace(rewritten))
            }
        })
    }
}

macro_rules! simple_handlers {
    ($($name:ident($argument:ty) -> $raw:ty, $answer:ty: $field:ident, $bytes:ident, $judge:ident;)*) => {$(
        pub(crate) struct $name(pub(crate) $argument);

        impl Handler for $name {
            type Raw = $raw;
            type Answer = $answer;

            fn hook(&self) -> Hook {
                Hook::$name
            }

            async fn run(&self, guests: &Guests, store: &mut Store<State>, call: &wit::Call) -> wasmtime::Result<$raw> {
                guest!(guests.$field).call_handle(store, call, &self.0).await
            }

            fn bytes(raw: &$raw) -> usize {
                $bytes(raw)
            }

            fn judge(&self, raw: $raw) -> Result<(Outcome, $answer), String> {
                Ok($judge(raw))
            }
        }
    )*};
}

simple_handlers! {
    BeforeParticipant(Arc<wit::ParticipantChange>) -> wit::Verdict, Decided<std::convert::Infallible>: before_participant, verdict_bytes, verdict;
    BeforeReaction(Arc<wit::Reaction>) -> wit::Verdict, Decided<std::convert::Infallible>: before_reaction, verdict_bytes, verdict;
    AfterMessage(wit::Message) -> Told, Told: after_message, told_bytes, told;
    AfterParticipant(wit::ParticipantChange) -> Told, Told: after_participant, told_bytes, told;
    AfterReaction(wit::Reaction) -> Told, Told: after_reaction, told_bytes, told;
    AfterReceipt(wit::Receipt) -> Told, Told: after_receipt, told_bytes, told;
    AfterConnection(wit::Connection) -> Told, Told: after_connection, told_bytes, told;
}

pub(crate) struct AfterConversation {
    pub(crate) op: wit::ConversationOp,
    pub(crate) conversation: wit::Conversation,
}

impl Handler for AfterConversation {
    type Raw = Told;
    type Answer = Told;

    fn hook(&self) -> Hook {
        Hook::AfterConversation
    }

    async fn run(&self, guests: &Guests, store: &mut Store<State>, call: &wit::Call) -> wasmtime::Result<Told> {
        guest!(guests.after_conversation)
            .call_handle(store, call, self.op, &self.conversation)
            .await
    }

    fn bytes(raw: &Told) -> usize {
        told_bytes(raw)
    }

    fn judge(&self, raw: Told) -> Result<(Outcome, Told), String> {
        Ok(told(raw))
    }
}

pub(crate) struct Timer {
    pub(crate) name: String,
    pub(crate) due_ms: u64,
    pub(crate) payload: String,
}

impl Handler for Timer {
    type Raw = Told;
    type Answer = Told;

    fn hook(&self) -> Hook {
        Hook::Timer
    }

    async fn run(&self, guests: &Guests, store: &mut Store<State>, call: &wit::Call) -> wasmtime::Result<Told> {
        guest!(guests.timer)
            .call_handle(store, call, &self.name, self.due_ms, &self.payload)
            .await
    }

    fn bytes(raw: &Told) -> usize {
        told_bytes(raw)
    }

    fn judge(&self, raw: Told) -> Result<(Outcome, Told), String> {
        Ok(told(raw))
    }
}

pub(crate) struct Command {
    pub(crate) name: String,
    pub(crate) payload: String,
}

impl Handler for Command {
    type Raw = Result<String, wit::Rejection>;
    type Answer = Result<String, wit::Rejection>;

    fn hook(&self) -> Hook {
        Hook::Command
    }

    async fn run(&self, guests: &Guests, store: &mut Store<State>, call: &wit::Call) -> wasmtime::Result<Self::Raw> {
        guest!(guests.command).call_handle(store, call, &self.name, &self.payload).await
    }

    fn bytes(raw: &Self::Raw) -> usize {
        match raw {
            Ok(answer) => answer.len(),
            Err(why) => rejection_bytes(why),
        }
    }

    fn judge(&self, raw: Self::Raw) -> Result<(Outcome, Self::Answer), String> {
        match raw {
            Ok(answer) => {
                convert::json("the answer", &answer).map_err(|error| error.to_string())?;
                Ok((Outcome::Ok, Ok(answer)))
            }
            Err(why) => Ok((Outcome::Reject, Err(rejection(why)))),
        }
    }
}

pub(crate) struct Http(pub(crate) exports::http::Request);

impl Handler for Http {
    type Raw = exports::http::Response;
    type Answer = HttpResponse;

    fn hook(&self) -> Hook {
        Hook::Http
    }

    fn share(&self) -> Share {
        Share::Waiting
    }

    async fn run(&self, guests: &Guests, store: &mut Store<State>, call: &wit::Call) -> wasmtime::Result<Self::Raw> {
        guest!(guests.http).call_handle(store, call, &self.0).await
    }

    fn bytes(raw: &Self::Raw) -> usize {
        raw.body.len() + raw.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
    }

    fn judge(&self, raw: Self::Raw) -> Result<(Outcome, HttpResponse), String> {
        let response = convert::http_response(raw).map_err(|error| error.to_string())?;
        Ok((Outcome::Ok, response))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_bytes<A, B, C, D, F: Future>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_message_asked_about_carries_little_along() {
        // Boxed for every message, and copied there. The fast path of the server's allocator ends at 1,024 bytes.
        let bytes = future_bytes(perform::<BeforeMessage>);
        assert!(bytes <= 1_024, "{bytes} bytes");
    }
}
