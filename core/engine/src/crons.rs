//! Plugin-wide timers that manifests declare by a cron line.

use std::sync::Arc;

use crate::{
    Inner,
    engine::{Asked, Handler, outside},
};

/// Fires the cron lines of all plugins, in UTC, at most once a minute each.
pub(crate) async fn run(engine: Arc<Inner>) {
    let mut last = engine.clock.now();
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(500));
    loop {
        tick.tick().await;
        let now = engine.clock.now();
        if now <= last {
            continue; // the clock was set back: nothing fires twice
        }
        let plan = engine.hooks.plan();
        for (plugin, name, due) in plan.crons_due(last, now) {
            let actor = crate::Actor::plugin(&plugin);
            let handler = Handler::Cron { name: name.clone(), due };
            match outside(&engine, &plugin, Asked::by(actor), handler).await {
                Ok(_) => engine.metrics.timers_fired.increment(1),
                Err(refusal) => {
                    engine.metrics.delivery_failures.increment(1);
                    tracing::warn!(%plugin, name, %refusal, "a cron handler failed");
                }
            }
        }
        last = now;
    }
}
