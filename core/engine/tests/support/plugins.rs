//! Plugins written as closures, behind the engine's port.

use std::{collections::HashMap, future::Future, sync::Arc};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use haggle_engine::{
    Refusal,
    ports::{
        After, Call, Consumer, ConversationDraft, Draft, Facts, Hook, HookError, Hooks, HostCalls, HttpRequest, HttpResponse, NoPlugins,
        ParticipantChange, Plan, ReactionChange, Route, Scope, gone,
    },
    sockets::{Args, NamespaceAnswer, NamespaceCall, SocketAudience, SocketEmit, Target},
};
use haggle_model::{ConversationUpdate, Decider, ErrorCode, Millis, PluginId};
use parking_lot::RwLock;

pub type Host = Arc<dyn HostCalls>;
type BeforeMessage = Box<dyn Fn(Host, Call, Draft) -> BoxFuture<'static, Result<Draft, Refusal>> + Send + Sync>;
type BeforeParticipant = Box<dyn Fn(Host, Call, ParticipantChange) -> BoxFuture<'static, Result<(), Refusal>> + Send + Sync>;
type OnAfter = Box<dyn Fn(Host, Call, After) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;
type OnCommand = Box<dyn Fn(Host, Call, String) -> BoxFuture<'static, Result<String, Refusal>> + Send + Sync>;
type OnHttp = Box<dyn Fn(Host, Call, HttpRequest) -> BoxFuture<'static, Result<HttpResponse, String>> + Send + Sync>;
type OnMap = Box<dyn Fn(Host, Call) -> BoxFuture<'static, String> + Send + Sync>;
type OnTimer = Box<dyn Fn(Host, Call, String, String) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// One plugin.
pub struct Fake {
    id: PluginId,
    claims: Vec<String>,
    before_message: Option<BeforeMessage>,
    before_participant: Option<BeforeParticipant>,
    after: HashMap<Hook, OnAfter>,
    commands: HashMap<String, OnCommand>,
    http: Option<OnHttp>,
    map: Option<OnMap>,
    timer: Option<OnTimer>,
    from_start: bool,
}

impl Fake {
    pub fn new(id: &str) -> Fake {
        Fake {
            id: id.into(),
            claims: Vec::new(),
            before_message: None,
            before_participant: None,
            after: HashMap::new(),
            commands: HashMap::new(),
            http: None,
            map: None,
            timer: None,
            from_start: true,
        }
    }

    pub fn claims(mut self, kind: &str) -> Fake {
        self.claims.push(kind.into());
        self
    }

    pub fn before_message<F: Future<Output = Result<Draft, Refusal>> + Send + 'static>(
        mut self,
        hook: impl Fn(Host, Call, Draft) -> F + Send + Sync + 'static,
    ) -> Fake {
        self.before_message = Some(Box::new(move |host, call, draft| Box::pin(hook(host, call, draft))));
        self
    }

    pub fn before_participant<F: Future<Output = Result<(), Refusal>> + Send + 'static>(
        mut self,
        hook: impl Fn(Host, Call, ParticipantChange) -> F + Send + Sync + 'static,
    ) -> Fake {
        self.before_participant = Some(Box::new(move |host, call, change| Box::pin(hook(host, call, change))));
        self
    }

    pub fn after<F: Future<Output = Result<(), String>> + Send + 'static>(
        mut self,
        on: Hook,
        hook: impl Fn(Host, Call, After) -> F + Send + Sync + 'static,
    ) -> Fake {
        self.after
            .insert(on, Box::new(move |host, call, event| Box::pin(hook(host, call, event))));
        self
    }

    pub fn command<F: Future<Output = Result<String, Refusal>> + Send + 'static>(
        mut self,
        name: &str,
        run: impl Fn(Host, Call, String) -> F + Send + Sync + 'static,
    ) -> Fake {
        self.commands
            .insert(name.into(), Box::new(move |host, call, payload| Box::pin(run(host, call, payload))));
        self
    }

    pub fn http<F: Future<Output = Result<HttpResponse, String>> + Send + 'static>(
        mut self,
        run: impl Fn(Host, Call, HttpRequest) -> F + Send + Sync + 'static,
    ) -> Fake {
        self.http = Some(Box::new(move |host, call, request| Box::pin(run(host, call, request))));
        self
    }

    /// What an event of the core is called in a namespace of the plugin; everybody there is told.
    pub fn map<F: Future<Output = String> + Send + 'static>(mut self, map: impl Fn(Host, Call) -> F + Send + Sync + 'static) -> Fake {
        self.map = Some(Box::new(move |host, call| Box::pin(map(host, call))));
        self
    }

    /// The closure gets the timer's name and payload.
    pub fn timer<F: Future<Output = Result<(), String>> + Send + 'static>(
        mut self,
        run: impl Fn(Host, Call, String, String) -> F + Send + Sync + 'static,
    ) -> Fake {
        self.timer = Some(Box::new(move |host, call, name, payload| Box::pin(run(host, call, name, payload))));
        self
    }

    fn has(&self, hook: Hook) -> bool {
        match hook {
            Hook::BeforeMessage => self.before_message.is_some(),
            Hook::BeforeParticipant => self.before_participant.is_some(),
            hook => self.after.contains_key(&hook),
        }
    }
}

/// The refusal of a plugin that says no.
pub fn reject(code: &str) -> Refusal {
    Refusal::new(ErrorCode::PluginRejected, code.to_owned()).by_plugin("fake", code)
}

/// The active plugins, in the order in which they decide.
pub struct FakePlugins {
    active: RwLock<Arc<FakePlan>>,
}

impl FakePlugins {
    pub fn of(plugins: impl IntoIterator<Item = Fake>) -> Arc<FakePlugins> {
        Arc::new(FakePlugins {
            active: RwLock::new(Arc::new(FakePlan {
                plugins: plugins.into_iter().map(Arc::new).collect(),
            })),
        })
    }
}

impl Hooks for FakePlugins {
    fn plan(&self) -> Arc<dyn Plan> {
        self.active.read().clone()
    }
}

struct FakePlan {
    plugins: Vec<Arc<Fake>>,
}

impl FakePlan {
    fn get(&self, id: &PluginId) -> Option<&Fake> {
        self.plugins.iter().find(|plugin| plugin.id == *id).map(|plugin| &**plugin)
    }
}

fn failed(plugin: &PluginId, hook: Hook, message: String) -> HookError {
    HookError {
        plugin: plugin.clone(),
        hook: hook.as_str(),
        kind: "error",
        message,
    }
}

#[async_trait]
impl Plan for FakePlan {
    fn wants(&self, hook: Hook, _: &Facts<'_>) -> bool {
        self.plugins.iter().any(|plugin| plugin.has(hook))
    }

    fn claims(&self, kind: &str) -> Option<PluginId> {
        self.plugins
            .iter()
            .find(|plugin| plugin.claims.iter().any(|claimed| claimed == kind))
            .map(|plugin| plugin.id.clone())
    }

    async fn before_message(&self, scope: &dyn Scope, draft: &mut Draft, skip: &[PluginId]) -> Result<Vec<Decider>, Refusal> {
        let mut decided_by = Vec::new();
        for plugin in self.plugins.iter().filter(|plugin| !skip.contains(&plugin.id)) {
            let Some(hook) = &plugin.before_message else { continue };
            let host = scope.guest(&plugin.id);
            *draft = hook(host.clone(), scope.call().clone(), draft.clone()).await?;
            host.keep();
            decided_by.push(Decider {
                plugin: plugin.id.clone(),
                version: "1.0.0".into(),
                digest: [0; 8],
            });
        }
        Ok(decided_by)
    }

    async fn before_conversation(&self, _: &dyn Scope, draft: ConversationDraft) -> Result<ConversationUpdate, Refusal> {
        Ok(draft.update)
    }

    async fn before_participant(&self, scope: &dyn Scope, change: ParticipantChange) -> Result<(), Refusal> {
        for plugin in &self.plugins {
            let Some(hook) = &plugin.before_participant else { continue };
            let host = scope.guest(&plugin.id);
            hook(host.clone(), scope.call().clone(), change.clone()).await?;
            host.keep();
        }
        Ok(())
    }

    async fn before_reaction(&self, _: &dyn Scope, _: ReactionChange) -> Result<(), Refusal> {
        Ok(())
    }

    fn command_owner(&self, name: &str) -> Option<PluginId> {
        self.plugins
            .iter()
            .find(|plugin| plugin.commands.contains_key(name))
            .map(|plugin| plugin.id.clone())
    }

    async fn command(&self, scope: &dyn Scope, plugin: &PluginId, name: &str, payload: &str) -> Result<String, Refusal> {
        let run = self
            .get(plugin)
            .and_then(|plugin| plugin.commands.get(name))
            .expect("the owner has the command");
        let host = scope.guest(plugin);
        let answer = run(host.clone(), scope.call().clone(), payload.into()).await?;
        host.keep();
        Ok(answer)
    }

    async fn timer(&self, scope: &dyn Scope, plugin: &PluginId, name: &str, _: Millis, payload: &str) -> Result<(), HookError> {
        let Some(run) = self.get(plugin).and_then(|plugin| plugin.timer.as_ref()) else {
            return Err(gone(plugin, Hook::Timer));
        };
        let host = scope.guest(plugin);
        run(host.clone(), scope.call().clone(), name.into(), payload.into())
            .await
            .map_err(|message| failed(plugin, Hook::Timer, message))?;
        host.keep();
        Ok(())
    }

    fn consumers(&self) -> Vec<Consumer> {
        let with_after = self.plugins.iter().filter(|plugin| !plugin.after.is_empty());
        with_after
            .map(|plugin| Consumer {
                plugin: plugin.id.clone(),
                from_start: plugin.from_start,
            })
            .collect()
    }

    fn wants_after(&self, plugin: &PluginId, hook: Hook, _: &Facts<'_>) -> bool {
        self.get(plugin).is_some_and(|plugin| plugin.has(hook))
    }

    async fn after(&self, scope: &dyn Scope, plugin: &PluginId, event: &After) -> Result<(), HookError> {
        let hook = event.hook();
        let Some(run) = self.get(plugin).and_then(|plugin| plugin.after.get(&hook)) else {
            return Err(gone(plugin, hook));
        };
        let host = scope.guest(plugin);
        run(host.clone(), scope.call().clone(), event.clone())
            .await
            .map_err(|message| failed(plugin, hook, message))?;
        host.keep();
        Ok(())
    }

    fn connection_watchers(&self) -> Vec<PluginId> {
        Vec::new()
    }

    fn routes(&self) -> Vec<Route> {
        Vec::new()
    }

    async fn http(&self, scope: &dyn Scope, plugin: &PluginId, request: HttpRequest) -> Result<HttpResponse, HookError> {
        let Some(run) = self.get(plugin).and_then(|plugin| plugin.http.as_ref()) else {
            return NoPlugins.http(scope, plugin, request).await;
        };
        let host = scope.guest(plugin);
        let response = run(host.clone(), scope.call().clone(), request)
            .await
            .map_err(|message| failed(plugin, Hook::Http, message))?;
        host.keep();
        Ok(response)
    }

    async fn namespace(&self, scope: &dyn Scope, plugin: &PluginId, call: NamespaceCall) -> Result<NamespaceAnswer, HookError> {
        let map = self.get(plugin).and_then(|plugin| plugin.map.as_ref());
        let (Some(map), NamespaceCall::Map { .. }) = (map, &call) else {
            return NoPlugins.namespace(scope, plugin, call).await;
        };
        let emit = SocketEmit {
            audience: SocketAudience {
                to: Target::Everyone,
                joined: None,
                except_user: None,
                except_connection: None,
                namespace: None,
            },
            participants: Arc::default(),
            name: map(scope.guest(plugin), scope.call().clone()).await,
            args: Args::default(),
            token: None,
        };
        Ok(NamespaceAnswer::Emits(vec![emit]))
    }

    fn crons_due(&self, _: Millis, _: Millis) -> Vec<(PluginId, String, Millis)> {
        Vec::new()
    }
}
