//! Tasks that mostly end at once.

use std::{
    future::Future,
    task::{Context, Waker},
};

/// Runs the future here as far as it gets without waiting, and the rest of it as a task.
///
/// What reads the store mostly waits for nothing. Then no task is made, and what was queued for a client leaves with what
/// was queued before it.
pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    let mut future = Box::pin(future);
    // The task polls again before it waits, with a waker of its own.
    if future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
        tokio::spawn(future);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    };

    use super::*;

    #[tokio::test]
    async fn what_waits_goes_on_as_a_task() {
        let steps = Arc::new(AtomicU32::new(0));
        let (go, gate) = tokio::sync::oneshot::channel();
        let (done, ended) = tokio::sync::oneshot::channel();
        let counted = steps.clone();
        spawn(async move {
            counted.fetch_add(1, Relaxed);
            let _ = gate.await;
            counted.fetch_add(1, Relaxed);
            let _ = done.send(());
        });
        assert_eq!(steps.load(Relaxed), 1, "it has begun before spawn returns");
        go.send(()).unwrap();
        ended.await.unwrap();
        assert_eq!(steps.load(Relaxed), 2);
    }

    #[test]
    fn what_does_not_wait_needs_no_runtime() {
        let (done, mut ended) = tokio::sync::oneshot::channel();
        spawn(async move {
            let _ = done.send(7);
        });
        assert_eq!(ended.try_recv(), Ok(7));
    }
}
