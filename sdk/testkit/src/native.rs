//! Plugins compiled natively, behind the engine's port for plugins.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::Arc,
};

use async_trait::async_trait;
use haggle_engine::{
    Refusal,
    ports::{
        After, Consumer, ConversationDraft, Draft, Facts, Hook, HookError, Hooks, HostCalls, HttpRequest, HttpResponse, ParticipantChange, Plan,
        ReactionChange, Route, Scope, gone,
    },
    sockets::{NamespaceAnswer, NamespaceCall},
};
use haggle_model::{ConversationUpdate, Decider, ErrorCode, Millis, PluginId};
use haggle_sdk::{
    Failure, Plugin, Rejection,
    native::{self, Handlers},
    types::{self, ConversationDecision, Decision, Verdict},
};
use serde_json::Value;
use tokio::runtime::Handle;

use crate::{
    TestServer,
    asking::{Asking, Traces},
    convert,
    manifest::{Manifest, Settings},
    sockets,
};

/// Hooks that are run from the log.
const FROM_THE_LOG: [Hook; 5] = [
    Hook::AfterMessage,
    Hook::AfterConversation,
    Hook::AfterParticipant,
    Hook::AfterReaction,
    Hook::AfterReceipt,
];

/// Puts a server with several native plugins together, or one with another configuration than its manifest's.
///
/// ```
/// # use haggle_sdk::prelude::*;
/// # #[derive(Default)]
/// # struct Greeter;
/// # impl AfterConversation for Greeter {
/// #     fn after_conversation(&mut self, call: &Call, _: ConversationOp, conversation: Conversation) -> Result<(), Failure> {
/// #         let greeting = config::get("greeting").unwrap_or_default();
/// #         messages::send(&Draft::text(&conversation.id, greeting))?;
/// #         Ok(())
/// #     }
/// # }
/// # haggle_sdk::plugin! { Greeter, hooks: [after_conversation], caps: [config, messages] }
/// # let manifest = "id = \"greeter\"\nversion = \"1.0.0\"\napi = \"0.1\"\n[grants]\nlog = true\nconfig = true\nmessages = true\n[config]\ngreeting = \"hello\"";
/// let server = haggle_testkit::Builder::default().plugin::<Greeter>(manifest).config("greeter", "greeting", "welcome").start();
/// let conversation = server.direct("alice", "bob");
/// assert_eq!(server.messages(&conversation)[0].content, "welcome");
/// ```
#[derive(Default)]
pub struct Builder {
    plugins: Vec<NativePlugin>,
}

impl Builder {
    /// Adds a plugin with the text of its `plugin.toml`.
    ///
    /// # Panics
    /// Where the text is no manifest, or does not grant what the plugin's macro names.
    #[must_use]
    pub fn plugin<P: Plugin + Handlers>(mut self, manifest: &str) -> Builder {
        let manifest = Manifest::parse(manifest);
        for capability in P::CAPABILITIES {
            let name = capability.as_str();
            assert!(
                manifest.grants(name),
                "plugin.toml of {} does not grant `{name}`, which the plugin uses",
                manifest.id()
            );
        }
        self.plugins.push(NativePlugin {
            id: manifest.id(),
            hooks: P::HOOKS.iter().map(|hook| engine_hook(*hook)).collect(),
            manifest: Arc::new(manifest),
            make: || Box::new(P::default()),
            traces: Arc::default(),
        });
        self
    }

    /// Sets a value over a plugin's `[config]`, as an operator would.
    ///
    /// # Panics
    /// Where the plugin was not added before.
    #[must_use]
    pub fn config(mut self, plugin: &str, key: &str, value: impl Into<Value>) -> Builder {
        let plugin = self
            .plugins
            .iter_mut()
            .find(|known| known.id.as_str() == plugin)
            .unwrap_or_else(|| panic!("there is no plugin {plugin} here"));
        Arc::make_mut(&mut plugin.manifest).config.insert(key.to_owned(), value.into());
        self
    }

    /// Starts the server.
    pub fn start(mut self) -> TestServer {
        let traces: Arc<Traces> = Arc::default();
        for plugin in &mut self.plugins {
            plugin.traces = traces.clone();
        }
        let plan = NativePlan {
            plugins: self.plugins.into_iter().map(Arc::new).collect(),
        };
        TestServer::start(Arc::new(NativeHooks(Arc::new(plan))), Some(traces))
    }
}

fn engine_hook(hook: haggle_sdk::hooks::Hook) -> Hook {
    use haggle_sdk::hooks::Hook as Sdk;
    match hook {
        Sdk::BeforeMessage => Hook::BeforeMessage,
        Sdk::AfterMessage => Hook::AfterMessage,
        Sdk::BeforeConversation => Hook::BeforeConversation,
        Sdk::AfterConversation => Hook::AfterConversation,
        Sdk::BeforeParticipant => Hook::BeforeParticipant,
        Sdk::AfterParticipant => Hook::AfterParticipant,
        Sdk::BeforeReaction => Hook::BeforeReaction,
        Sdk::AfterReaction => Hook::AfterReaction,
        Sdk::AfterReceipt => Hook::AfterReceipt,
        Sdk::AfterConnection => Hook::AfterConnection,
        Sdk::Command => Hook::Command,
        Sdk::Http => Hook::Http,
        Sdk::Timer => Hook::Timer,
        Sdk::Namespace => Hook::Namespace,
        Sdk::Lifecycle => Hook::Lifecycle,
    }
}

struct NativeHooks(Arc<NativePlan>);

impl Hooks for NativeHooks {
    fn plan(&self) -> Arc<dyn Plan> {
        self.0.clone()
    }
}

struct NativePlugin {
    id: PluginId,
    manifest: Arc<Manifest>,
    hooks: Vec<Hook>,
    /// A new instance. Every call gets its own: what a plugin must not forget belongs into kv.
    make: fn() -> Box<dyn Handlers>,
    traces: Arc<Traces>,
}

impl NativePlugin {
    fn has(&self, hook: Hook) -> bool {
        self.hooks.contains(&hook)
    }

    fn settings(&self, hook: Hook) -> Settings {
        self.manifest.hook(hook)
    }

    /// Runs a handler on a thread that may wait. `Err`: it panicked, or its `init` failed.
    async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        scope: &dyn Scope,
        handler: impl FnOnce(&mut dyn Handlers, &types::Call) -> T + Send + 'static,
    ) -> Result<(T, Arc<dyn HostCalls>), String> {
        let calls = scope.guest(&self.id);
        let call = convert::call(scope.call());
        let asking = {
            let (plugin, calls, runtime) = (self.clone(), calls.clone(), Handle::current());
            move || Asking {
                calls,
                runtime,
                manifest: plugin.manifest.clone(),
                traces: plugin.traces.clone(),
            }
        };
        let plugin = self.clone();
        let ran = tokio::task::spawn_blocking(move || {
            let _installed = native::install(Rc::new(asking()));
            catch_unwind(AssertUnwindSafe(|| {
                let mut instance = (plugin.make)();
                if plugin.has(Hook::Lifecycle) {
                    let config = Value::Object(plugin.manifest.config.clone()).to_string();
                    instance.init(&config).map_err(|failure| format!("init failed: {}", failure.0))?;
                }
                Ok(handler(&mut *instance, &call))
            }))
        })
        .await;
        match ran {
            Ok(Ok(answer)) => answer.map(|answer| (answer, calls)),
            Ok(Err(panic)) => Err(format!("panicked: {}", panic_text(&*panic))),
            Err(error) => Err(error.to_string()),
        }
    }

    fn failed(&self, hook: Hook, message: String) -> HookError {
        HookError {
            plugin: self.id.clone(),
            hook: hook.as_str(),
            kind: "trap",
            message,
        }
    }

    fn refused(&self, why: String) -> Refusal {
        Refusal::new(ErrorCode::PluginError, why).by_plugin(self.id.as_str(), "trap")
    }

    fn rejected(&self, why: Rejection) -> Refusal {
        Refusal::new(ErrorCode::PluginRejected, why.message).by_plugin(self.id.as_str(), why.code)
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "without a message".into())
}

fn namespace(handlers: &mut dyn Handlers, told: &types::Call, call: NamespaceCall) -> Result<NamespaceAnswer, haggle_sdk::Error> {
    Ok(match call {
        NamespaceCall::Connect(handshake) => {
            let handshake = haggle_sdk::sockets::Handshake {
                namespace: handshake.namespace,
                auth: handshake.auth,
                host: handshake.host,
                path: handshake.path,
                query: handshake.query,
                headers: handshake.headers,
            };
            match handlers.connect(told, handshake) {
                Ok(()) => NamespaceAnswer::Done,
                Err(refused) => NamespaceAnswer::Refused {
                    message: refused.message,
                    data: refused.data,
                },
            }
        }
        NamespaceCall::Event(event) => match handlers.event(told, sockets::event_in(event)) {
            Ok(args) => NamespaceAnswer::Ack(args.map(sockets::args_out).transpose()?),
            Err(Rejection { code, message }) => NamespaceAnswer::Rejected { code, message },
        },
        NamespaceCall::Disconnect { namespace, reason } => {
            handlers.disconnect(told, &namespace, &reason);
            NamespaceAnswer::Done
        }
        NamespaceCall::Map { namespace, event } => sockets::emits_out(handlers.map(told, &namespace, sockets::core_event(*event)))?,
    })
}

struct NativePlan {
    plugins: Vec<Arc<NativePlugin>>,
}

impl NativePlan {
    /// The plugins with a hook, in their order.
    fn chain(&self, hook: Hook) -> Vec<&Arc<NativePlugin>> {
        let mut chain: Vec<_> = self.plugins.iter().filter(|plugin| plugin.has(hook)).collect();
        chain.sort_by_key(|plugin| (plugin.settings(hook).priority(), plugin.id.clone()));
        chain
    }

    fn with_hook(&self, plugin: &PluginId, hook: Hook) -> Option<&Arc<NativePlugin>> {
        self.plugins.iter().find(|known| known.id == *plugin && known.has(hook))
    }

    /// A chain whose hooks can only say yes or no.
    async fn judge(
        &self,
        scope: &dyn Scope,
        hook: Hook,
        handler: impl Fn(&mut dyn Handlers, &types::Call) -> Verdict + Clone + Send + 'static,
    ) -> Result<(), Refusal> {
        for plugin in self.chain(hook) {
            match plugin.run(scope, handler.clone()).await {
                Ok((Verdict::Continue, calls)) => calls.keep(),
                Ok((Verdict::Reject(why), _)) => return Err(plugin.rejected(why)),
                Err(_) if plugin.settings(hook).allows_failure() => {}
                Err(why) => return Err(plugin.refused(why)),
            }
        }
        Ok(())
    }

    async fn tell(
        &self,
        scope: &dyn Scope,
        plugin: &PluginId,
        hook: Hook,
        handler: impl FnOnce(&mut dyn Handlers, &types::Call) -> Result<(), Failure> + Send + 'static,
    ) -> Result<(), HookError> {
        let plugin = self.with_hook(plugin, hook).ok_or_else(|| gone(plugin, hook))?;
        match plugin.run(scope, handler).await {
            Ok((Ok(()), calls)) => {
                calls.keep();
                Ok(())
            }
            Ok((Err(failure), _)) => Err(HookError {
                kind: "error",
                ..plugin.failed(hook, failure.0)
            }),
            Err(why) => Err(plugin.failed(hook, why)),
        }
    }
}

#[async_trait]
impl Plan for NativePlan {
    fn wants(&self, hook: Hook, facts: &Facts<'_>) -> bool {
        self.chain(hook).iter().any(|plugin| plugin.settings(hook).passes(facts))
    }

    fn claims(&self, kind: &str) -> Option<PluginId> {
        self.plugins
            .iter()
            .find(|plugin| plugin.manifest.claims.iter().any(|claimed| claimed == kind))
            .map(|plugin| plugin.id.clone())
    }

    async fn before_message(&self, scope: &dyn Scope, draft: &mut Draft, skip: &[PluginId]) -> Result<Vec<Decider>, Refusal> {
        let mut decided_by = Vec::new();
        for plugin in self.chain(Hook::BeforeMessage) {
            let settings = plugin.settings(Hook::BeforeMessage);
            let conversation = scope.conversation_kind().unwrap_or(haggle_model::ConversationKind::Direct);
            let facts = Facts {
                conversation,
                message: Some(&draft.kind),
                dialect: &scope.call().actor.dialect,
            };
            if skip.contains(&plugin.id) || !settings.passes(&facts) {
                continue;
            }
            let shown = convert::draft(draft);
            let (decision, calls) = match plugin.run(scope, move |handlers, call| handlers.before_message(call, shown)).await {
                Ok(decided) => decided,
                Err(_) if settings.allows_failure() => continue,
                Err(why) => return Err(plugin.refused(why)),
            };
            match decision {
                Decision::Continue => {}
                Decision::Reject(why) => return Err(plugin.rejected(why)),
                Decision::Replace(after) => convert::rewrite(draft, after).map_err(|error| plugin.refused(error.to_string()))?,
            }
            calls.keep();
            decided_by.push(Decider {
                plugin: plugin.id.clone(),
                version: plugin.manifest.version.clone(),
                digest: [0; 8],
            });
        }
        Ok(decided_by)
    }

    async fn before_conversation(&self, scope: &dyn Scope, mut draft: ConversationDraft) -> Result<ConversationUpdate, Refusal> {
        for plugin in self.chain(Hook::BeforeConversation) {
            let shown = convert::conversation_draft(&draft);
            let (decision, calls) = match plugin.run(scope, move |handlers, call| handlers.before_conversation(call, shown)).await {
                Ok(decided) => decided,
                Err(_) if plugin.settings(Hook::BeforeConversation).allows_failure() => continue,
                Err(why) => return Err(plugin.refused(why)),
            };
            match decision {
                ConversationDecision::Continue => {}
                ConversationDecision::Reject(why) => return Err(plugin.rejected(why)),
                ConversationDecision::Replace(after) => {
                    draft.update = ConversationUpdate {
                        name: after.name,
                        avatar: after.avatar,
                        state: after.state,
                    };
                }
            }
            calls.keep();
        }
        Ok(draft.update)
    }

    async fn before_participant(&self, scope: &dyn Scope, change: ParticipantChange) -> Result<(), Refusal> {
        let change = convert::participant_change(&change);
        self.judge(scope, Hook::BeforeParticipant, move |handlers, call| {
            handlers.before_participant(call, change.clone())
        })
        .await
    }

    async fn before_reaction(&self, scope: &dyn Scope, change: ReactionChange) -> Result<(), Refusal> {
        let change = convert::reaction(&change);
        self.judge(scope, Hook::BeforeReaction, move |handlers, call| {
            handlers.before_reaction(call, change.clone())
        })
        .await
    }

    fn command_owner(&self, name: &str) -> Option<PluginId> {
        let owner = self
            .plugins
            .iter()
            .find(|plugin| plugin.has(Hook::Command) && plugin.settings(Hook::Command).names.iter().any(|own| own == name));
        owner.map(|plugin| plugin.id.clone())
    }

    async fn command(&self, scope: &dyn Scope, plugin: &PluginId, name: &str, payload: &str) -> Result<String, Refusal> {
        let Some(plugin) = self.with_hook(plugin, Hook::Command) else {
            return Err(Refusal::new(ErrorCode::NotFound, format!("no active plugin has the command {name}")));
        };
        let (name, payload) = (name.to_owned(), payload.to_owned());
        match plugin.run(scope, move |handlers, call| handlers.command(call, &name, &payload)).await {
            Ok((Ok(answer), calls)) => {
                calls.keep();
                Ok(answer)
            }
            Ok((Err(why), _)) => Err(plugin.rejected(why)),
            Err(why) => Err(plugin.refused(why)),
        }
    }

    async fn timer(&self, scope: &dyn Scope, plugin: &PluginId, name: &str, due: Millis, payload: &str) -> Result<(), HookError> {
        let (name, payload, due_ms) = (name.to_owned(), payload.to_owned(), convert::millis(due));
        self.tell(scope, plugin, Hook::Timer, move |handlers, call| {
            handlers.timer(call, &name, due_ms, &payload)
        })
        .await
    }

    fn consumers(&self) -> Vec<Consumer> {
        let consumer = |plugin: &Arc<NativePlugin>| {
            let mut hooks = FROM_THE_LOG.into_iter().filter(|hook| plugin.has(*hook)).peekable();
            hooks.peek()?;
            Some(Consumer {
                plugin: plugin.id.clone(),
                from_start: hooks.any(|hook| plugin.settings(hook).from_start),
            })
        };
        self.plugins.iter().filter_map(consumer).collect()
    }

    fn wants_after(&self, plugin: &PluginId, hook: Hook, facts: &Facts<'_>) -> bool {
        self.with_hook(plugin, hook).is_some_and(|plugin| plugin.settings(hook).passes(facts))
    }

    async fn after(&self, scope: &dyn Scope, plugin: &PluginId, event: &After) -> Result<(), HookError> {
        let (hook, event) = (event.hook(), event.clone());
        self.tell(scope, plugin, hook, move |handlers, call| match event {
            After::Message { op, message } => handlers.after_message(call, convert::message(message, op)),
            After::Conversation { op, conversation } => {
                handlers.after_conversation(call, convert::conversation_op(op), convert::conversation(conversation))
            }
            After::Participant(change) => handlers.after_participant(call, convert::participant_change(&change)),
            After::Reaction(change) => handlers.after_reaction(call, convert::reaction(&change)),
            After::Receipt { user, mark } => {
                let receipt = types::Receipt {
                    user_id: user.to_string(),
                    read_seq: mark.read_seq,
                    delivered_seq: mark.delivered_seq,
                };
                handlers.after_receipt(call, receipt)
            }
            After::Connection {
                session,
                user,
                transport,
                open,
                reason,
            } => {
                let connection = types::Connection {
                    id: session,
                    user_id: user.to_string(),
                    transport: convert::transport(transport),
                    open,
                    reason,
                };
                handlers.after_connection(call, connection)
            }
        })
        .await
    }

    fn connection_watchers(&self) -> Vec<PluginId> {
        self.chain(Hook::AfterConnection).iter().map(|plugin| plugin.id.clone()).collect()
    }

    fn routes(&self) -> Vec<Route> {
        self.plugins.iter().flat_map(|plugin| plugin.manifest.routes()).collect()
    }

    async fn http(&self, scope: &dyn Scope, plugin: &PluginId, request: HttpRequest) -> Result<HttpResponse, HookError> {
        let plugin = self.with_hook(plugin, Hook::Http).ok_or_else(|| gone(plugin, Hook::Http))?;
        let HttpRequest {
            method,
            path,
            params,
            query,
            headers,
            body,
        } = request;
        let request = types::HttpRequest {
            method,
            path,
            params,
            query,
            headers,
            body,
        };
        let (response, calls) = plugin
            .run(scope, move |handlers, call| handlers.http(call, request))
            .await
            .map_err(|why| plugin.failed(Hook::Http, why))?;
        if response.status < 400 {
            calls.keep();
        }
        Ok(HttpResponse {
            status: response.status,
            headers: response.headers,
            body: response.body,
        })
    }

    fn offers_namespace(&self, plugin: &PluginId, _: &str) -> bool {
        self.with_hook(plugin, Hook::Namespace).is_some()
    }

    async fn namespace(&self, scope: &dyn Scope, plugin: &PluginId, call: NamespaceCall) -> Result<NamespaceAnswer, HookError> {
        let plugin = self.with_hook(plugin, Hook::Namespace).ok_or_else(|| gone(plugin, Hook::Namespace))?;
        let ran = plugin.run(scope, move |handlers, told| namespace(handlers, told, call)).await;
        let (answer, calls) = ran.map_err(|why| plugin.failed(Hook::Namespace, why))?;
        let answer = answer.map_err(|error| plugin.failed(Hook::Namespace, error.to_string()))?;
        if !matches!(answer, NamespaceAnswer::Refused { .. } | NamespaceAnswer::Rejected { .. }) {
            calls.keep();
        }
        Ok(answer)
    }

    fn crons_due(&self, _: Millis, _: Millis) -> Vec<(PluginId, String, Millis)> {
        Vec::new() // Schedules are the host's; a handler of one is tested as any other timer.
    }
}
