//! One loaded version of a plugin.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use haggle_engine::ports::{Hook, HookError, Scope};
use haggle_model::{Decider, Hex, PluginId};

use crate::{
    bindings::wit,
    breaker::Breaker,
    calls::{self, Handler, Session},
    fault::CallError,
    manifest::{HookSettings, Manifest},
    metrics::{self, HookMeters},
    pool::Pool,
    state::Profile,
};

pub(crate) struct Plugin {
    pub(crate) manifest: Manifest,
    pub(crate) digest: [u8; 32],
    /// Stands in every message that it decided.
    pub(crate) decider: Decider,
    pub(crate) profile: Arc<Profile>,
    pub(crate) pool: Arc<Pool>,
    /// Exported hooks.
    pub(crate) exports: Vec<Hook>,
    pub(crate) from_cache: bool,
    pub(crate) loaded_at: SystemTime,
    hooks: [Option<Box<HookEntry>>; Hook::ALL.len()],
    needs_engine: bool,
}

struct HookEntry {
    settings: HookSettings,
    breaker: Breaker,
}

impl Plugin {
    pub(crate) fn new(manifest: Manifest, digest: [u8; 32], pool: Arc<Pool>, from_cache: bool) -> Plugin {
        let exports = pool.indices.hooks();
        let profile = pool.profile.clone();
        let wall_max = std::time::Duration::from_millis(u64::from(profile.host.wall_ms_max));
        let entry = |hook| {
            let settings = manifest.hook(hook);
            let settings = HookSettings {
                deadline: settings.deadline.min(wall_max),
                ..settings
            };
            Box::new(HookEntry {
                settings,
                breaker: Breaker::default(),
            })
        };
        let mut short = [0; 8];
        short.copy_from_slice(&digest[..8]);
        Plugin {
            decider: Decider {
                plugin: manifest.id.clone(),
                version: manifest.version.clone(),
                digest: short,
            },
            hooks: Hook::ALL.map(|hook| exports.contains(&hook).then(|| entry(hook))),
            needs_engine: profile.grants.keys().any(|capability| capability.needs_engine()),
            manifest,
            digest,
            profile,
            pool,
            exports,
            from_cache,
            loaded_at: SystemTime::now(),
        }
    }

    pub(crate) fn id(&self) -> &PluginId {
        &self.manifest.id
    }

    pub(crate) fn has(&self, hook: Hook) -> bool {
        self.hooks[hook as usize].is_some()
    }

    fn entry(&self, hook: Hook) -> &HookEntry {
        self.hooks[hook as usize].as_ref().expect("only exported hooks are asked for")
    }

    pub(crate) fn settings(&self, hook: Hook) -> &HookSettings {
        &self.entry(hook).settings
    }

    pub(crate) fn breaker(&self, hook: Hook) -> &Breaker {
        &self.entry(hook).breaker
    }

    pub(crate) fn meters(&self, hook: Hook) -> &HookMeters {
        self.profile.meters.hook(hook)
    }

    /// Makes the call within the hook's and the scope's deadline. The answer comes with the right to keep what was written.
    pub(crate) async fn call<H: Handler>(
        self: &Arc<Self>,
        scope: &dyn Scope,
        call: &Arc<wit::Call>,
        handler: H,
    ) -> Result<(H::Answer, Written), CallError> {
        let began = Instant::now();
        let (own, scopes) = (began + self.settings(handler.hook()).deadline, scope.deadline());
        let guest = self.needs_engine.then(|| scope.guest(self.id()));
        let session = Session {
            guest: guest.clone(),
            call: call.clone(),
            began,
            deadline: own.min(scopes),
            is_own_deadline: own <= scopes,
        };
        let answer = calls::call(self, session, handler).await?;
        Ok((answer, Written(guest)))
    }

    pub(crate) fn hook_error(&self, hook: Hook, error: CallError) -> HookError {
        error.into_hook_error(self.id(), hook)
    }

    /// Shows this version as active, or not any more.
    pub(crate) fn announce(&self, active: bool) {
        metrics::info(
            self.id(),
            &self.manifest.version,
            &self.manifest.api,
            Hex::<16>::of(&self.digest[..8]).as_str(),
            active,
        );
        if !active {
            self.profile.meters.idle.set(0.0);
            self.profile.meters.busy.set(0.0);
        }
    }
}

/// What a call wrote. Dropped, it is as if never made.
pub(crate) struct Written(Option<Arc<dyn haggle_engine::ports::HostCalls>>);

impl Written {
    /// The writes join the scope's transaction.
    pub(crate) fn keep(self) {
        if let Some(guest) = self.0 {
            guest.keep();
        }
    }
}
