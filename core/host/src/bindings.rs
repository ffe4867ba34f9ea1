//! The contract in Rust, generated from `sdk/wit`, and the probe of which hooks a component exports.

use haggle_engine::ports::Hook;
use wasmtime::{
    AsContextMut, Result,
    component::{Instance, InstancePre},
};

/// Generated: private, so that the rest of the crate names what it uses below.
mod generated {
    wasmtime::component::bindgen!({
        path: "../../sdk/wit",
        world: "all",
        imports: {
            "haggle:plugin/kv.get": async | trappable,
            "haggle:plugin/kv.list": async | trappable,
            "haggle:plugin/kv-global.get": async | trappable,
            "haggle:plugin/kv-global.reserve": async | trappable,
            "haggle:plugin/messages.edit": async | trappable,
            "haggle:plugin/messages.get": async | trappable,
            "haggle:plugin/messages.list": async | trappable,
            "haggle:plugin/messages.read-by": async | trappable,
            "haggle:plugin/conversations.get": async | trappable,
            "haggle:plugin/participants.list": async | trappable,
            "haggle:plugin/users.get": async | trappable,
            "haggle:plugin/users.unread": async | trappable,
            "haggle:plugin/timers.get": async | trappable,
            "haggle:plugin/events.emit-to-sockets": async | trappable,
            "haggle:plugin/events.ask-socket": async | trappable,
            "haggle:plugin/client.send": async | trappable,
            "haggle:plugin/client.edit": async | trappable,
            "haggle:plugin/client.delete": async | trappable,
            "haggle:plugin/client.hide-message": async | trappable,
            "haggle:plugin/client.react": async | trappable,
            "haggle:plugin/client.read": async | trappable,
            "haggle:plugin/client.open-direct": async | trappable,
            "haggle:plugin/client.open-context": async | trappable,
            "haggle:plugin/client.open-broadcast": async | trappable,
            "haggle:plugin/client.update": async | trappable,
            "haggle:plugin/client.close": async | trappable,
            "haggle:plugin/client.archive": async | trappable,
            "haggle:plugin/client.hide": async | trappable,
            "haggle:plugin/client.add-participant": async | trappable,
            "haggle:plugin/client.remove-participant": async | trappable,
            "haggle:plugin/client.block": async | trappable,
            "haggle:plugin/client.call": async | trappable,
            "haggle:plugin/client.join": async | trappable,
            "haggle:plugin/client.direct-id": async | trappable,
            "haggle:plugin/client.conversations": async | trappable,
            "haggle:plugin/client.conversations-total": async | trappable,
            "haggle:plugin/client.get-conversation": async | trappable,
            "haggle:plugin/client.messages": async | trappable,
            "haggle:plugin/client.get-message": async | trappable,
            "haggle:plugin/client.read-by": async | trappable,
            "haggle:plugin/client.read-notification": async | trappable,
            "haggle:plugin/client.read-all-notifications": async | trappable,
            "haggle:plugin/client.notifications": async | trappable,
            "haggle:plugin/client.unread-notifications": async | trappable,
            "haggle:plugin/client.unread-total": async | trappable,
            "haggle:plugin/client.presence-of": async | trappable,
            default: trappable,
        },
        exports: { default: async },
    });
}

pub(crate) use generated::exports::haggle::plugin as exports;
pub(crate) use generated::haggle::plugin::{
    client, config, conversations, events, kv, kv_global, log, messages, metrics, notifications, participants, timers, types as wit, users,
};

macro_rules! hooks {
    ($($field:ident: $hook:ident),* $(,)?) => {
        /// Where a component's exported hooks are; found once per component.
        pub(crate) struct Indices { $($field: Option<exports::$field::GuestIndices>),* }

        impl Indices {
            /// Looks for every hook of the contract.
            pub(crate) fn probe<T>(pre: &InstancePre<T>) -> Indices {
                Indices { $($field: exports::$field::GuestIndices::new(pre).ok()),* }
            }

            /// The hooks that are there.
            pub(crate) fn hooks(&self) -> Vec<Hook> {
                let mut hooks = Vec::new();
                $(if self.$field.is_some() { hooks.push(Hook::$hook); })*
                hooks
            }

            /// The hooks of one instance. Fails where a hook's types are not those of the contract.
            pub(crate) fn load(&self, mut store: impl AsContextMut, instance: &Instance) -> Result<Guests> {
                Ok(Guests {
                    $($field: match &self.$field {
                        Some(indices) => Some(indices.load(&mut store, instance)?),
                        None => None,
                    }),*
                })
            }
        }

        /// The exported hooks of one instance.
        pub(crate) struct Guests { $(pub(crate) $field: Option<exports::$field::Guest>),* }
    };
}

hooks! {
    before_message: BeforeMessage,
    after_message: AfterMessage,
    before_conversation: BeforeConversation,
    after_conversation: AfterConversation,
    before_participant: BeforeParticipant,
    after_participant: AfterParticipant,
    before_reaction: BeforeReaction,
    after_reaction: AfterReaction,
    after_receipt: AfterReceipt,
    after_connection: AfterConnection,
    command: Command,
    http: Http,
    timer: Timer,
    namespace: Namespace,
    lifecycle: Lifecycle,
}
