//! One set of plugin versions, and the chains through them. A command pins one registry and never sees a newer one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use haggle_engine::{
    Refusal,
    ports::{
        After, Consumer, ConversationDraft, Draft, Facts, Hook, HookError, HttpRequest, HttpResponse, ParticipantChange, Plan, ReactionChange, Route,
        Scope, gone,
    },
    sockets::{NamespaceAnswer, NamespaceCall},
};
use haggle_model::{ConversationUpdate, Decider, ErrorCode, Millis, PluginId};

use crate::{
    bindings::wit,
    breaker::OPEN_MIN,
    calls::{self, Decided, Handler},
    convert,
    fault::{CallError, Kind},
    manifest::OnFailure,
    plugin::{Plugin, Written},
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
/// An HTTP answer from here on says that the request was refused: what its handler wrote is dropped.
const HTTP_REFUSED: u16 = 400;

/// The active plugins, indexed by everything that is asked about them.
#[derive(Default)]
pub(crate) struct Registry {
    plugins: BTreeMap<PluginId, Arc<Plugin>>,
    by_hook: [Vec<Arc<Plugin>>; Hook::ALL.len()],
    claims: HashMap<String, PluginId>,
    commands: HashMap<String, PluginId>,
}

impl Registry {
    /// Indexes the plugins. Fails where two want the same kind, command or route.
    pub(crate) fn new(plugins: BTreeMap<PluginId, Arc<Plugin>>) -> Result<Registry, String> {
        let mut registry = Registry::default();
        let mut routes = HashMap::new();
        for plugin in plugins.values() {
            let manifest = &plugin.manifest;
            for kind in &manifest.claims {
                own(&mut registry.claims, "the kind of message", kind.clone(), &manifest.id)?;
            }
            for name in &manifest.commands {
                own(&mut registry.commands, "the command", name.clone(), &manifest.id)?;
            }
            // Bound ones are kept apart by the operator, who says where each plugin's are.
            for route in manifest.routes.iter().filter(|route| !route.bound) {
                own(&mut routes, "the route", route.shape(), &manifest.id)?;
            }
            for &hook in &plugin.exports {
                registry.by_hook[hook as usize].push(plugin.clone());
            }
        }
        for (hook, chain) in Hook::ALL.into_iter().zip(&mut registry.by_hook) {
            chain.sort_by_key(|plugin| (plugin.settings(hook).priority, plugin.id().clone()));
        }
        registry.plugins = plugins;
        Ok(registry)
    }

    pub(crate) fn plugins(&self) -> &BTreeMap<PluginId, Arc<Plugin>> {
        &self.plugins
    }

    fn chain(&self, hook: Hook) -> &[Arc<Plugin>] {
        &self.by_hook[hook as usize]
    }

    /// The plugin, if it is active and has this hook.
    fn with_hook(&self, plugin: &PluginId, hook: Hook) -> Option<&Arc<Plugin>> {
        self.plugins.get(plugin).filter(|plugin| plugin.has(hook))
    }

    fn of_the_log(plugin: &Plugin) -> impl Iterator<Item = Hook> {
        FROM_THE_LOG.into_iter().filter(|hook| plugin.has(*hook))
    }
}

fn own(owners: &mut HashMap<String, PluginId>, what: &str, name: String, plugin: &PluginId) -> Result<(), String> {
    match owners.insert(name.clone(), plugin.clone()) {
        Some(other) if other != *plugin => Err(format!("{what} `{name}` belongs to the plugin {other} already")),
        _ => Ok(()),
    }
}

/// One plugin's step in a chain of before-hooks: its answer, or `None` where it failed and its policy is to go on without it.
async fn step<H: Handler>(
    plugin: &Arc<Plugin>,
    scope: &dyn Scope,
    call: &Arc<wit::Call>,
    handler: H,
) -> Result<Option<(H::Answer, Written)>, Refusal> {
    let hook = handler.hook();
    match plugin.call(scope, call, handler).await {
        Ok(answer) => Ok(Some(answer)),
        Err(_) if plugin.settings(hook).on_failure == OnFailure::Allow => Ok(None),
        Err(error) => Err(failed(plugin, &error)),
    }
}

/// What a client hears of a plugin that failed: which one and in what way, not its inner life.
fn failed(plugin: &Plugin, error: &CallError) -> Refusal {
    let kind = error.kind.as_str();
    let refusal =
        Refusal::new(ErrorCode::PluginError, format!("the plugin {} did not answer ({kind})", plugin.id())).by_plugin(plugin.id().as_str(), kind);
    if matches!(error.kind, Kind::Breaker | Kind::Overloaded) {
        refusal.after(OPEN_MIN)
    } else {
        refusal
    }
}

fn rejected(plugin: &Plugin, rejection: wit::Rejection) -> Refusal {
    Refusal::new(ErrorCode::PluginRejected, rejection.message).by_plugin(plugin.id().as_str(), rejection.code)
}

fn call_of(scope: &dyn Scope) -> Arc<wit::Call> {
    Arc::new(convert::call(scope.call()))
}

#[async_trait]
impl Plan for Registry {
    fn wants(&self, hook: Hook, facts: &Facts<'_>) -> bool {
        self.chain(hook).iter().any(|plugin| plugin.settings(hook).filter.passes(facts))
    }

    fn claims(&self, kind: &str) -> Option<PluginId> {
        self.claims.get(kind).cloned()
    }

    async fn before_message(&self, scope: &dyn Scope, draft: &mut Draft, skip: &[PluginId]) -> Result<Vec<Decider>, Refusal> {
        let mut deciders = Vec::new();
        let mut call = None;
        for plugin in self.chain(Hook::BeforeMessage) {
            let filter = &plugin.settings(Hook::BeforeMessage).filter;
            let passes = filter.passes_known(scope.conversation_kind(), Some(&draft.kind), &scope.call().actor.dialect);
            if !passes || skip.contains(plugin.id()) {
                continue;
            }
            let call = call.get_or_insert_with(|| Arc::new(convert::call_about_message(scope.call())));
            let told = Arc::new(convert::tell_draft(draft, &scope.call().actor.user));
            let answer = step(plugin, scope, call, calls::BeforeMessage(told.clone())).await?;
            convert::restore_draft(draft, Arc::unwrap_or_clone(told));
            let Some((decided, written)) = answer else { continue };
            match decided {
                Decided::Continue => {}
                Decided::Reject(why) => return Err(rejected(plugin, why)),
                Decided::Replace(rewritten) => rewritten.apply(draft),
            }
            written.keep();
            deciders.push(plugin.decider.clone());
        }
        Ok(deciders)
    }

    async fn before_conversation(&self, scope: &dyn Scope, draft: ConversationDraft) -> Result<ConversationUpdate, Refusal> {
        let mut draft = draft;
        let mut told: Option<(Arc<wit::Call>, Arc<wit::ConversationDraft>)> = None;
        for plugin in self.chain(Hook::BeforeConversation) {
            let filter = &plugin.settings(Hook::BeforeConversation).filter;
            if !filter.passes_known(Some(draft.kind), None, &scope.call().actor.dialect) {
                continue;
            }
            let (call, before) = told.get_or_insert_with(|| (call_of(scope), Arc::new(convert::conversation_draft(&draft))));
            let Some((decided, written)) = step(plugin, scope, call, calls::BeforeConversation(before.clone())).await? else {
                continue;
            };
            match decided {
                Decided::Continue => {}
                Decided::Reject(why) => return Err(rejected(plugin, why)),
                Decided::Replace(rewritten) => {
                    draft.update = rewritten;
                    *before = Arc::new(convert::conversation_draft(&draft));
                }
            }
            written.keep();
        }
        Ok(draft.update)
    }

    async fn before_participant(&self, scope: &dyn Scope, change: ParticipantChange) -> Result<(), Refusal> {
        let change = Arc::new(convert::participant_change(&change));
        self.judge(scope, Hook::BeforeParticipant, || calls::BeforeParticipant(change.clone()))
            .await
    }

    async fn before_reaction(&self, scope: &dyn Scope, change: ReactionChange) -> Result<(), Refusal> {
        let change = Arc::new(convert::reaction(&change));
        self.judge(scope, Hook::BeforeReaction, || calls::BeforeReaction(change.clone())).await
    }

    fn command_owner(&self, name: &str) -> Option<PluginId> {
        self.commands.get(name).cloned()
    }

    async fn command(&self, scope: &dyn Scope, plugin: &PluginId, name: &str, payload: &str) -> Result<String, Refusal> {
        let Some(plugin) = self.with_hook(plugin, Hook::Command) else {
            return Err(Refusal::new(ErrorCode::NotFound, format!("no active plugin has the command {name}")));
        };
        let handler = calls::Command {
            name: name.to_owned(),
            payload: payload.to_owned(),
        };
        match plugin.call(scope, &call_of(scope), handler).await {
            Ok((Ok(answer), written)) => {
                written.keep();
                Ok(answer)
            }
            Ok((Err(why), _)) => Err(rejected(plugin, why)),
            Err(error) => Err(failed(plugin, &error)),
        }
    }

    async fn timer(&self, scope: &dyn Scope, plugin: &PluginId, name: &str, due: Millis, payload: &str) -> Result<(), HookError> {
        let plugin = self.with_hook(plugin, Hook::Timer).ok_or_else(|| gone(plugin, Hook::Timer))?;
        let handler = calls::Timer {
            name: name.to_owned(),
            due_ms: convert::millis(due),
            payload: payload.to_owned(),
        };
        tell(plugin, scope, handler).await
    }

    fn consumers(&self) -> Vec<Consumer> {
        let consumer = |plugin: &Arc<Plugin>| {
            let mut hooks = Registry::of_the_log(plugin).peekable();
            hooks.peek()?;
            Some(Consumer {
                plugin: plugin.id().clone(),
                from_start: hooks.any(|hook| plugin.settings(hook).from_start),
            })
        };
        self.plugins.values().filter_map(consumer).collect()
    }

    fn wants_after(&self, plugin: &PluginId, hook: Hook, facts: &Facts<'_>) -> bool {
        self.with_hook(plugin, hook)
            .is_some_and(|plugin| plugin.settings(hook).filter.passes(facts))
    }

    async fn after(&self, scope: &dyn Scope, plugin: &PluginId, event: &After) -> Result<(), HookError> {
        let hook = event.hook();
        let plugin = self.with_hook(plugin, hook).ok_or_else(|| gone(plugin, hook))?;
        match event.clone() {
            After::Message { op, message } => {
                let message = convert::message_after(message, op, Some(&scope.call().actor.user));
                let call = Arc::new(convert::call_about_message(scope.call()));
                tell_by(plugin, scope, &call, calls::AfterMessage(message)).await
            }
            After::Conversation { op, conversation } => {
                tell(
                    plugin,
                    scope,
                    calls::AfterConversation {
                        op: convert::conversation_op(op),
                        conversation: convert::conversation(conversation),
                    },
                )
                .await
            }
            After::Participant(change) => tell(plugin, scope, calls::AfterParticipant(convert::participant_change(&change))).await,
            After::Reaction(change) => tell(plugin, scope, calls::AfterReaction(convert::reaction(&change))).await,
            After::Receipt { user, mark } => {
                let receipt = wit::Receipt {
                    user_id: user.to_string(),
                    read_seq: mark.read_seq,
                    delivered_seq: mark.delivered_seq,
                };
                tell(plugin, scope, calls::AfterReceipt(receipt)).await
            }
            After::Connection {
                session,
                user,
                transport,
                open,
                reason,
            } => {
                let connection = wit::Connection {
                    id: session,
                    user_id: user.to_string(),
                    transport: convert::transport(transport),
                    open,
                    reason,
                };
                tell(plugin, scope, calls::AfterConnection(connection)).await
            }
        }
    }

    fn connection_watchers(&self) -> Vec<PluginId> {
        self.chain(Hook::AfterConnection).iter().map(|plugin| plugin.id().clone()).collect()
    }

    fn routes(&self) -> Vec<Route> {
        self.plugins.values().flat_map(|plugin| plugin.manifest.routes.iter().cloned()).collect()
    }

    async fn http(&self, scope: &dyn Scope, plugin: &PluginId, request: HttpRequest) -> Result<HttpResponse, HookError> {
        let plugin = self.with_hook(plugin, Hook::Http).ok_or_else(|| gone(plugin, Hook::Http))?;
        let handler = calls::Http(convert::http_request(request));
        match plugin.call(scope, &call_of(scope), handler).await {
            Ok((response, written)) => {
                if response.status < HTTP_REFUSED {
                    written.keep();
                }
                Ok(response)
            }
            Err(error) => Err(plugin.hook_error(Hook::Http, error)),
        }
    }

    fn offers_namespace(&self, plugin: &PluginId, namespace: &str) -> bool {
        self.with_hook(plugin, Hook::Namespace)
            .is_some_and(|plugin| plugin.manifest.offers_namespace(namespace))
    }

    async fn namespace(&self, scope: &dyn Scope, plugin: &PluginId, call: NamespaceCall) -> Result<NamespaceAnswer, HookError> {
        let plugin = self.with_hook(plugin, Hook::Namespace).ok_or_else(|| gone(plugin, Hook::Namespace))?;
        match plugin.call(scope, &call_of(scope), sockets::Namespace::new(call)).await {
            Ok((answer, written)) => {
                if !matches!(answer, NamespaceAnswer::Refused { .. } | NamespaceAnswer::Rejected { .. }) {
                    written.keep();
                }
                Ok(answer)
            }
            Err(error) => Err(plugin.hook_error(Hook::Namespace, error)),
        }
    }

    fn crons_due(&self, after: Millis, until: Millis) -> Vec<(PluginId, String, Millis)> {
        let due = |plugin: &Arc<Plugin>| {
            let crons = plugin.manifest.crons.iter();
            crons
                .filter_map(|cron| Some((plugin.id().clone(), cron.name.clone(), cron.last_due(after, until)?)))
                .collect::<Vec<_>>()
        };
        self.plugins.values().flat_map(due).collect()
    }
}

impl Registry {
    /// A chain in which nothing can be rewritten.
    async fn judge<H>(&self, scope: &dyn Scope, hook: Hook, handler: impl Fn() -> H + Send) -> Result<(), Refusal>
    where
        H: Handler<Answer = Decided<std::convert::Infallible>>,
    {
        let mut call = None;
        for plugin in self.chain(hook) {
            if !plugin
                .settings(hook)
                .filter
                .passes_known(scope.conversation_kind(), None, &scope.call().actor.dialect)
            {
                continue;
            }
            let call = call.get_or_insert_with(|| call_of(scope));
            let Some((decided, written)) = step(plugin, scope, call, handler()).await? else {
                continue;
            };
            if let Decided::Reject(why) = decided {
                return Err(rejected(plugin, why));
            }
            written.keep();
        }
        Ok(())
    }
}

/// A call that is done or to be tried again.
async fn tell<H: Handler<Answer = Result<(), String>>>(plugin: &Arc<Plugin>, scope: &dyn Scope, handler: H) -> Result<(), HookError> {
    tell_by(plugin, scope, &call_of(scope), handler).await
}

async fn tell_by<H: Handler<Answer = Result<(), String>>>(
    plugin: &Arc<Plugin>,
    scope: &dyn Scope,
    call: &Arc<wit::Call>,
    handler: H,
) -> Result<(), HookError> {
    let hook = handler.hook();
    match plugin.call(scope, call, handler).await {
        Ok((Ok(()), written)) => {
            written.keep();
            Ok(())
        }
        Ok((Err(text), _)) => Err(plugin.hook_error(hook, CallError::new(Kind::Error, text))),
        Err(error) => Err(plugin.hook_error(hook, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_are_their_own_index() {
        for (index, hook) in Hook::ALL.into_iter().enumerate() {
            assert_eq!(hook as usize, index, "{hook:?}: chains and meters are found by this number");
        }
    }
}
