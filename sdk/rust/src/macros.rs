//! The macro that makes a plugin of a struct.

/// Declares the plugin: its type (which is `Default`), the hooks it has and the capabilities it uses.
///
/// ```
/// use haggle_sdk::prelude::*;
///
/// #[derive(Default)]
/// struct Audit;
///
/// impl AfterMessage for Audit {
///     fn after_message(&mut self, _call: &Call, message: Message) -> Result<(), Failure> {
///         log::info!("message {} of kind {}", message.id, message.kind);
///         kv::set("last", message.id.as_bytes())?;
///         Ok(())
///     }
/// }
///
/// haggle_sdk::plugin! { Audit, hooks: [after_message], caps: [log, kv] }
/// ```
///
/// Hooks: `before_message`, `after_message`, `before_conversation`, `after_conversation`, `before_participant`,
/// `after_participant`, `before_reaction`, `after_reaction`, `after_receipt`, `after_connection`, `command`, `http`, `timer`,
/// `namespace`, `lifecycle`. Capabilities: `log`, `metrics`, `config`, `kv`, `kv_global`, `messages`, `conversations`, `participants`,
/// `users`, `events`, `notifications`, `client`, `timers`.
///
/// A crate holds one plugin.
#[macro_export]
macro_rules! plugin {
    ($plugin:ident, hooks: [$($hook:ident),* $(,)?] $(,)?) => {
        $crate::plugin! { $plugin, hooks: [$($hook),*], caps: [] }
    };
    ($plugin:ident, hooks: [$($hook:ident),* $(,)?], caps: [$($cap:ident),* $(,)?] $(,)?) => {
        impl $crate::Plugin for $plugin {
            const HOOKS: &'static [$crate::hooks::Hook] = &[$($crate::__hook!($hook)),*];
            const CAPABILITIES: &'static [$crate::Capability] = &[$($crate::__capability!($cap)),*];
        }

        #[cfg(not(target_arch = "wasm32"))]
        impl $crate::native::Handlers for $plugin {
            $($crate::__native_handler!($hook);)*
        }

        // Natively only tests make one: without this a plugin that is not `pub` would be called dead code.
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn() -> $plugin = <$plugin as ::std::default::Default>::default;

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            // One type that every exported interface is implemented for, and the one instance behind it.
            #[doc(hidden)]
            struct Exported;

            ::std::thread_local! {
                static INSTANCE: ::std::cell::RefCell<$plugin> = ::std::cell::RefCell::new($crate::guest::start::<$plugin>());
            }

            impl $crate::guest::Exported for Exported {
                type Plugin = $plugin;
                fn with<R>(run: impl FnOnce(&mut $plugin) -> R) -> R {
                    INSTANCE.with_borrow_mut(run)
                }
            }

            $($crate::__export!($hook, Exported);)*
            $($crate::__name_capability!($cap);)*
        };
    };
}

/// The value of a hook's name.
#[doc(hidden)]
#[macro_export]
#[rustfmt::skip]
macro_rules! __hook {
    (before_message) => { $crate::hooks::Hook::BeforeMessage };
    (after_message) => { $crate::hooks::Hook::AfterMessage };
    (before_conversation) => { $crate::hooks::Hook::BeforeConversation };
    (after_conversation) => { $crate::hooks::Hook::AfterConversation };
    (before_participant) => { $crate::hooks::Hook::BeforeParticipant };
    (after_participant) => { $crate::hooks::Hook::AfterParticipant };
    (before_reaction) => { $crate::hooks::Hook::BeforeReaction };
    (after_reaction) => { $crate::hooks::Hook::AfterReaction };
    (after_receipt) => { $crate::hooks::Hook::AfterReceipt };
    (after_connection) => { $crate::hooks::Hook::AfterConnection };
    (command) => { $crate::hooks::Hook::Command };
    (http) => { $crate::hooks::Hook::Http };
    (timer) => { $crate::hooks::Hook::Timer };
    (namespace) => { $crate::hooks::Hook::Namespace };
    (lifecycle) => { $crate::hooks::Hook::Lifecycle };
    ($other:ident) => { compile_error!(concat!("there is no hook `", stringify!($other), "`")) };
}

/// The value of a capability's name.
#[doc(hidden)]
#[macro_export]
#[rustfmt::skip]
macro_rules! __capability {
    (log) => { $crate::Capability::Log };
    (metrics) => { $crate::Capability::Metrics };
    (config) => { $crate::Capability::Config };
    (kv) => { $crate::Capability::Kv };
    (kv_global) => { $crate::Capability::KvGlobal };
    (messages) => { $crate::Capability::Messages };
    (conversations) => { $crate::Capability::Conversations };
    (participants) => { $crate::Capability::Participants };
    (users) => { $crate::Capability::Users };
    (events) => { $crate::Capability::Events };
    (notifications) => { $crate::Capability::Notifications };
    (client) => { $crate::Capability::Client };
    (timers) => { $crate::Capability::Timers };
    ($other:ident) => { compile_error!(concat!("there is no capability `", stringify!($other), "`")) };
}

/// One method of `native::Handlers` that passes the call on to the hook's trait.
#[cfg(not(target_arch = "wasm32"))]
#[doc(hidden)]
#[macro_export]
#[rustfmt::skip]
macro_rules! __native_handler {
    (@pass $trait:ident $method:ident ($($arg:ident: $type:ty),*) -> $answer:ty) => {
        fn $method(&mut self, $($arg: $type),*) -> $answer {
            <Self as $crate::hooks::$trait>::$method(self, $($arg),*)
        }
    };
    (before_message) => { $crate::__native_handler!(@pass BeforeMessage before_message (call: &$crate::types::Call, draft: $crate::types::Draft) -> $crate::types::Decision); };
    (after_message) => { $crate::__native_handler!(@pass AfterMessage after_message (call: &$crate::types::Call, message: $crate::types::Message) -> ::std::result::Result<(), $crate::Failure>); };
    (before_conversation) => { $crate::__native_handler!(@pass BeforeConversation before_conversation (call: &$crate::types::Call, draft: $crate::types::ConversationDraft) -> $crate::types::ConversationDecision); };
    (after_conversation) => { $crate::__native_handler!(@pass AfterConversation after_conversation (call: &$crate::types::Call, op: $crate::types::ConversationOp, conversation: $crate::types::Conversation) -> ::std::result::Result<(), $crate::Failure>); };
    (before_participant) => { $crate::__native_handler!(@pass BeforeParticipant before_participant (call: &$crate::types::Call, change: $crate::types::ParticipantChange) -> $crate::types::Verdict); };
    (after_participant) => { $crate::__native_handler!(@pass AfterParticipant after_participant (call: &$crate::types::Call, change: $crate::types::ParticipantChange) -> ::std::result::Result<(), $crate::Failure>); };
    (before_reaction) => { $crate::__native_handler!(@pass BeforeReaction before_reaction (call: &$crate::types::Call, reaction: $crate::types::Reaction) -> $crate::types::Verdict); };
    (after_reaction) => { $crate::__native_handler!(@pass AfterReaction after_reaction (call: &$crate::types::Call, reaction: $crate::types::Reaction) -> ::std::result::Result<(), $crate::Failure>); };
    (after_receipt) => { $crate::__native_handler!(@pass AfterReceipt after_receipt (call: &$crate::types::Call, receipt: $crate::types::Receipt) -> ::std::result::Result<(), $crate::Failure>); };
    (after_connection) => { $crate::__native_handler!(@pass AfterConnection after_connection (call: &$crate::types::Call, connection: $crate::types::Connection) -> ::std::result::Result<(), $crate::Failure>); };
    (command) => { $crate::__native_handler!(@pass Command command (call: &$crate::types::Call, name: &str, payload: &str) -> ::std::result::Result<::std::string::String, $crate::Rejection>); };
    (http) => { $crate::__native_handler!(@pass Http http (call: &$crate::types::Call, request: $crate::types::HttpRequest) -> $crate::types::HttpResponse); };
    (timer) => { $crate::__native_handler!(@pass Timer timer (call: &$crate::types::Call, name: &str, due_ms: u64, payload: &str) -> ::std::result::Result<(), $crate::Failure>); };
    (lifecycle) => { $crate::__native_handler!(@pass Lifecycle init (config: &str) -> ::std::result::Result<(), $crate::Failure>); };
    (namespace) => {
        $crate::__native_handler!(@pass Namespace connect (call: &$crate::types::Call, handshake: $crate::sockets::Handshake) -> ::std::result::Result<(), $crate::sockets::ConnectRefused>);
        $crate::__native_handler!(@pass Namespace event (call: &$crate::types::Call, event: $crate::sockets::SocketEvent) -> ::std::result::Result<::std::option::Option<$crate::sockets::Args>, $crate::Rejection>);
        $crate::__native_handler!(@pass Namespace disconnect (call: &$crate::types::Call, namespace: &str, reason: &str) -> ());
        $crate::__native_handler!(@pass Namespace map (call: &$crate::types::Call, namespace: &str, event: $crate::sockets::CoreEvent) -> ::std::vec::Vec<$crate::sockets::Emit>);
    };
    // `__hook!` has said what is wrong.
    ($other:ident) => {};
}

/// The component's export of one hook.
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
#[macro_export]
#[rustfmt::skip]
macro_rules! __export {
    (before_message, $ty:ident) => { $crate::guest::before_message::export!($ty with_types_in $crate::guest::before_message); };
    (after_message, $ty:ident) => { $crate::guest::after_message::export!($ty with_types_in $crate::guest::after_message); };
    (before_conversation, $ty:ident) => { $crate::guest::before_conversation::export!($ty with_types_in $crate::guest::before_conversation); };
    (after_conversation, $ty:ident) => { $crate::guest::after_conversation::export!($ty with_types_in $crate::guest::after_conversation); };
    (before_participant, $ty:ident) => { $crate::guest::before_participant::export!($ty with_types_in $crate::guest::before_participant); };
    (after_participant, $ty:ident) => { $crate::guest::after_participant::export!($ty with_types_in $crate::guest::after_participant); };
    (before_reaction, $ty:ident) => { $crate::guest::before_reaction::export!($ty with_types_in $crate::guest::before_reaction); };
    (after_reaction, $ty:ident) => { $crate::guest::after_reaction::export!($ty with_types_in $crate::guest::after_reaction); };
    (after_receipt, $ty:ident) => { $crate::guest::after_receipt::export!($ty with_types_in $crate::guest::after_receipt); };
    (after_connection, $ty:ident) => { $crate::guest::after_connection::export!($ty with_types_in $crate::guest::after_connection); };
    (command, $ty:ident) => { $crate::guest::command::export!($ty with_types_in $crate::guest::command); };
    (http, $ty:ident) => { $crate::guest::http::export!($ty with_types_in $crate::guest::http); };
    (timer, $ty:ident) => { $crate::guest::timer::export!($ty with_types_in $crate::guest::timer); };
    (namespace, $ty:ident) => { $crate::guest::namespace::export!($ty with_types_in $crate::guest::namespace); };
    (lifecycle, $ty:ident) => { $crate::guest::lifecycle::export!($ty with_types_in $crate::guest::lifecycle); };
    ($other:ident, $ty:ident) => {};
}

/// Defines the symbol that the capability's functions refer to, so that one that is used and not named does not link.
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
#[macro_export]
#[rustfmt::skip]
macro_rules! __name_capability {
    (@symbol $symbol:literal) => {
        const _: () = {
            #[unsafe(export_name = $symbol)]
            extern "C" fn named() {}
        };
    };
    (log) => {};
    (metrics) => { $crate::__name_capability!(@symbol "plugin_macro_must_name_the_capability_metrics"); };
    (config) => { $crate::__name_capability!(@symbol "plugin_macro_must_name_the_capability_config"); };
    (kv) => { $crate::__name_capability!(@symbol "plugin_macro_must_name_the_capability_kv"); };
    (kv_global) => { $crate::__name_capability!(@symbol "plugin_macro_must_name_the_capability_kv_global"); };
    (messages) => { $crate::__name_capability!(@symbol "plugin_macro_must_name_the_capability_messages"); };
    (conversations) => { $crate::__name_capability!(@symbol "plugin_macro_must_name_the_capability_conversations"); };
    (participants) => { $crate::__name_capability!(@symbol "plugin_macro_must_name_the_capability_participants"); };
    (users) => { $crate::__name_capability!(@symbol "plugin_macro_must_name_the_capability_users"); };
    (events) => { $crate::__name_capability!(@symbol "plugin_macro_must_name_the_capability_events"); };
    (notifications) => { $crate::__name_capability!(@symbol "plugin_macro_must_name_the_capability_notifications"); };
    (client) => { $crate::__name_capability!(@symbol "plugin_macro_must_name_the_capability_client"); };
    (timers) => { $crate::__name_capability!(@symbol "plugin_macro_must_name_the_capability_timers"); };
    ($other:ident) => {};
}
