//! How the instances of a plugin are shared out. Handlers that wait for turns leave some to the turns, in which this very plugin
//! may have a hook; and mappings, which wait for nobody, need not wait until such a handler is done.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What an instance is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// Hooks of turns and of the log: any instance.
    Turn,
    /// Handlers that act as their user and so may wait for turns: three quarters.
    Waiting,
    /// Mappings: what handlers that wait have left of theirs, and an eighth of their own (at least one).
    Mapping,
}

/// See the module.
pub(crate) struct Shares {
    instances: u32,
    all: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    mapping: Arc<Semaphore>,
}

/// The right to use one instance, given back when it is dropped.
pub(crate) struct Taken {
    _of_the_share: Option<OwnedSemaphorePermit>,
    _of_all: OwnedSemaphorePermit,
}

impl Shares {
    pub fn new(instances: u32) -> Shares {
        let semaphore = |count: u32| Arc::new(Semaphore::new(count as usize));
        Shares {
            instances,
            all: semaphore(instances),
            waiting: semaphore(count(Share::Waiting, instances)),
            mapping: semaphore(count(Share::Mapping, instances)),
        }
    }

    /// How many instances the share has for certain, or at most where it is one for handlers that wait.
    pub fn count(&self, share: Share) -> u32 {
        count(share, self.instances)
    }

    /// Instances in use.
    pub fn busy(&self) -> usize {
        (self.instances as usize).saturating_sub(self.all.available_permits())
    }

    /// One that is free now.
    pub fn take_free(&self, share: Share) -> Option<Taken> {
        let of_the_share = match share {
            Share::Turn => None,
            Share::Waiting => Some(free(&self.waiting)?),
            Share::Mapping => Some(free(&self.waiting).or_else(|| free(&self.mapping))?),
        };
        Some(Taken {
            _of_the_share: of_the_share,
            _of_all: free(&self.all)?,
        })
    }

    /// One as soon as there is one.
    pub async fn take(&self, share: Share) -> Taken {
        let of_the_share = match share {
            Share::Turn => None,
            Share::Waiting => Some(next(&self.waiting).await),
            Share::Mapping => Some(tokio::select! {
                biased;
                left = next(&self.waiting) => left,
                own = next(&self.mapping) => own,
            }),
        };
        Taken {
            _of_the_share: of_the_share,
            _of_all: next(&self.all).await,
        }
    }
}

fn free(semaphore: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    semaphore.clone().try_acquire_owned().ok()
}

async fn next(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    semaphore.clone().acquire_owned().await.expect("the semaphore is never closed")
}

/// A manifest with a single instance cannot have both a turn and a handler that waits for one (`loader`).
fn count(share: Share, instances: u32) -> u32 {
    match share {
        Share::Turn => instances,
        Share::Waiting => (instances - instances.div_ceil(4)).max(1),
        Share::Mapping => (instances / 8).max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_always_find_an_instance_that_waits_for_nobody() {
        for instances in 2..=1024 {
            assert!((1..instances).contains(&count(Share::Waiting, instances)), "{instances}");
            let left = instances - count(Share::Waiting, instances);
            assert!((1..=left).contains(&count(Share::Mapping, instances)), "{instances}");
        }
        let counts = |instances| [Share::Turn, Share::Waiting, Share::Mapping].map(|share| count(share, instances));
        assert_eq!(
            (counts(1), counts(2), counts(8), counts(16)),
            ([1, 1, 1], [2, 1, 1], [8, 6, 1], [16, 12, 2])
        );
    }

    #[tokio::test]
    async fn handlers_that_wait_leave_instances_to_mappings_and_turns() {
        let shares = Shares::new(8);
        let waiting: Vec<_> = std::iter::from_fn(|| shares.take_free(Share::Waiting)).collect();
        assert_eq!((waiting.len(), shares.busy()), (6, 6));
        let mapping = shares.take_free(Share::Mapping).expect("mappings have one of their own");
        assert!(shares.take_free(Share::Mapping).is_none(), "and leave one to the turns");
        let turn = shares.take_free(Share::Turn).expect("a turn finds it");
        assert!(shares.take_free(Share::Turn).is_none());
        drop(mapping);
        let _mapping = tokio::time::timeout(std::time::Duration::from_secs(5), shares.take(Share::Mapping)).await;
        assert!(_mapping.is_ok(), "one that was given back is taken by who waits for it");
        assert!(shares.take_free(Share::Mapping).is_none());
        drop(waiting);
        let _left = tokio::time::timeout(std::time::Duration::from_secs(5), shares.take(Share::Mapping)).await;
        assert!(_left.is_ok(), "and so is what handlers that wait have left");
        drop(turn);
    }

    #[test]
    fn mappings_use_what_is_left() {
        let shares = Shares::new(8);
        let mapping: Vec<_> = std::iter::from_fn(|| shares.take_free(Share::Mapping)).collect();
        assert_eq!(mapping.len(), 7);
        assert!(shares.take_free(Share::Turn).is_some());
    }
}
