//! A connection that remembers everything it is pushed.

use std::{collections::BTreeSet, sync::Arc};

use haggle_engine::{Engine, Push, Subscriber, Transport, What};
use haggle_model::{ConversationId, Event, UserId};
use parking_lot::Mutex;

/// Something that was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// Where; empty for events that are not kept.
    pub conversation_id: String,
    /// Its place; 0 for events that are not kept.
    pub seq: u32,
    /// `message.created`, `x.<plugin>.…`
    pub name: String,
    /// Of plugins' events: their payload; of messages: the text after the event.
    pub text: String,
}

/// An open connection of a user; closes when it is dropped.
pub struct Connection {
    inner: Arc<Inner>,
    engine: Engine,
}

struct Inner {
    id: String,
    user: UserId,
    watched: Mutex<BTreeSet<ConversationId>>,
    heard: Mutex<Vec<Arc<Push>>>,
}

impl Connection {
    pub(crate) fn open(engine: &Engine, user: &str, number: u32) -> Connection {
        let inner = Arc::new(Inner {
            id: format!("test-{number}"),
            user: user.into(),
            watched: Mutex::default(),
            heard: Mutex::default(),
        });
        engine.connect(inner.clone());
        Connection {
            inner,
            engine: engine.clone(),
        }
    }

    /// Its id, as hooks see it in `call.session`.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// Subscribes to a conversation: its user is watching it from now on.
    pub fn watch(&self, conversation_id: &str) {
        self.inner
            .watched
            .lock()
            .insert(conversation_id.parse().expect("the id of a conversation"));
    }

    /// What was pushed so far, oldest first: events of conversations and of plugins.
    pub fn heard(&self) -> Vec<Live> {
        self.inner.heard.lock().iter().filter_map(|push| live(&push.what)).collect()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.engine.disconnect(&*self.inner, "closed");
    }
}

fn live(what: &What) -> Option<Live> {
    match what {
        What::Event(event) => {
            let text = match (&event.entry.event, event.message()) {
                (Event::Custom { payload, .. }, _) => payload.clone(),
                (Event::MessageCreated(content), _) => content.text.clone(),
                (_, Some(message)) => message.content.text.clone(),
                _ => String::new(),
            };
            let name = event.entry.event.name().to_owned();
            Some(Live {
                conversation_id: event.entry.conversation.to_string(),
                seq: event.entry.seq,
                name,
                text,
            })
        }
        What::Custom { name, payload, .. } => Some(Live {
            conversation_id: String::new(),
            seq: 0,
            name: name.clone(),
            text: payload.clone(),
        }),
        _ => None,
    }
}

impl Subscriber for Inner {
    fn id(&self) -> &str {
        &self.id
    }
    fn user(&self) -> &UserId {
        &self.user
    }
    fn has_role(&self, _: &str) -> bool {
        false
    }
    fn transport(&self) -> Transport {
        Transport::Ws
    }
    fn subscribed(&self, conversation: ConversationId) -> bool {
        self.watched.lock().contains(&conversation)
    }
    fn offer(&self, push: &Arc<Push>) {
        self.heard.lock().push(push.clone());
    }
    fn ended(&self, conversation: ConversationId) {
        self.watched.lock().remove(&conversation);
    }
    fn close(&self, _: &'static str) {}
}
