//! State beside the log.

use haggle_model::{ConversationId, Pos, Shard, UserId};

use super::Opener;
use crate::{Cursor, FailedDelivery, Held};

/// A cursor comes back whole, per consumer, also after reopening; saving replaces it.
pub async fn cursors_come_back_with_what_they_hold(open: &Opener) {
    let store = open().await;
    let held = |n: u64| Held {
        conversation: ConversationId(n << 16 | u64::MAX << 60),
        from: Pos(n),
    };
    let cursor = |pos, held: &[Held]| Cursor {
        pos: Pos(pos),
        held: held.to_vec(),
    };
    assert_eq!(store.cursors(Shard(0)).await.unwrap(), []);
    store
        .save_cursors(
            Shard(0),
            vec![("b".to_string(), cursor(9, &[held(2), held(5)])), ("a".to_string(), cursor(4, &[]))],
        )
        .await
        .unwrap();
    store
        .save_cursors(Shard(0), vec![("b".to_string(), cursor(12, &[held(5)]))])
        .await
        .unwrap();
    let expected = vec![("a".to_string(), cursor(4, &[])), ("b".to_string(), cursor(12, &[held(5)]))];
    assert_eq!(store.cursors(Shard(0)).await.unwrap(), expected);
    store.rebuild_views().await.unwrap();
    drop(store);
    assert_eq!(open().await.cursors(Shard(0)).await.unwrap(), expected);
}

/// Failed deliveries have ids that are not given twice; the same item again replaces the earlier one.
pub async fn failed_deliveries_are_kept_until_removed(open: &Opener) {
    let store = open().await;
    let failed = |index, attempts| FailedDelivery {
        id: 0,
        consumer: "outgoing".to_string(),
        shard: Shard(0),
        pos: Pos(7),
        index,
        conversation: ConversationId(1 << 63),
        attempts,
        error: "not_found".to_string(),
        at: 5,
        payload: vec![1, 2],
    };
    let first = store.add_failed(failed(0, 1)).await.unwrap();
    let second = store.add_failed(failed(1, 1)).await.unwrap();
    assert!(second > first);
    assert_eq!(store.add_failed(failed(0, 6)).await.unwrap(), first);
    assert_eq!(store.failed_count().await.unwrap(), 2);
    assert_eq!(
        store.failed(0, 10).await.unwrap(),
        [
            FailedDelivery { id: first, ..failed(0, 6) },
            FailedDelivery { id: second, ..failed(1, 1) }
        ]
    );
    assert_eq!(store.failed(first, 10).await.unwrap().len(), 1);
    assert_eq!(store.failed(0, 1).await.unwrap().len(), 1);
    assert!(store.remove_failed(second).await.unwrap());
    assert!(!store.remove_failed(second).await.unwrap());
    assert!(store.add_failed(failed(2, 1)).await.unwrap() > second);
}

/// The later sight wins, in whatever order it is saved.
pub async fn last_seen_is_the_latest(open: &Opener) {
    let store = open().await;
    let (ann, bob) = (UserId::from("ann"), UserId::from("bob"));
    store.save_last_seen(vec![(ann.clone(), 9), (bob.clone(), 1)]).await.unwrap();
    store.save_last_seen(vec![(ann.clone(), 4), (bob.clone(), 2)]).await.unwrap();
    assert_eq!(store.last_seen(&ann).await.unwrap(), Some(9));
    assert_eq!(store.last_seen(&bob).await.unwrap(), Some(2));
    assert_eq!(store.last_seen(&UserId::from("eve")).await.unwrap(), None);
}
