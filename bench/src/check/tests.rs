//! The checker against a little server that can be made to lie.

use super::*;

/// How the server behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mutant {
    Honest,
    AckBeforeStore,
    DropOne,
    SwapTwo,
    DuplicateOne,
}

/// Two conversations of two, ten messages by each connection, then a crash; the verdict with the history audited.
fn run(mutant: Mutant) -> Verdict {
    let rooms = vec![vec![0, 1], vec![2, 3]];
    let mut checker = Checker::new(rooms.clone(), &[3; 4], true);
    for (room, members) in rooms.iter().enumerate() {
        let mut log: Vec<(u32, Option<Stamp>)> = (1..=3).map(|seq| (seq, None)).collect();
        for turn in 0..20 {
            let sender = members[turn % 2];
            let n = checker.send(sender);
            let seq = log.len() as u32 + 1;
            log.push((seq, Some(Stamp { sender: sender as u32, n })));
            checker.acked(sender, n, seq);
        }
        for &member in members {
            deliver(&mut checker, member, &log[3..], if room == 0 { mutant } else { Mutant::Honest });
        }
        if room == 0 && mutant == Mutant::AckBeforeStore {
            log.pop(); // It was acknowledged, the crash came first.
        }
        checker.audit(room, &log);
    }
    checker.verdict()
}

fn deliver(checker: &mut Checker, member: usize, events: &[(u32, Option<Stamp>)], mutant: Mutant) {
    let mut events = events.to_vec();
    match mutant {
        Mutant::DropOne if member == 1 => drop(events.remove(6)),
        // The server numbers what it sends, so a swap shows in a sender's order, not in the seqs.
        Mutant::SwapTwo if member == 1 => {
            let (a, b) = (events[6].1, events[8].1);
            (events[6].1, events[8].1) = (b, a);
        }
        Mutant::DuplicateOne if member == 1 => events.insert(6, events[5]),
        _ => {}
    }
    for (seq, stamp) in events {
        checker.seen(member, seq, stamp);
    }
}

#[test]
fn an_honest_server_passes() {
    let verdict = run(Mutant::Honest);
    assert_eq!(verdict.faults(), Vec::<String>::new());
    assert_eq!((verdict.sent, verdict.acked, verdict.seen), (40, 40, 40));
}

#[track_caller]
fn check_caught(mutant: Mutant, says: &str) {
    let faults = run(mutant).faults().join("; ");
    assert!(faults.contains(says), "{faults:?} does not say {says:?}");
}

#[test]
fn an_ack_before_the_store_is_caught() {
    check_caught(Mutant::AckBeforeStore, "1 acknowledged messages lost");
}

#[test]
fn a_dropped_message_is_caught() {
    check_caught(Mutant::DropOne, "1 gaps");
    check_caught(Mutant::DropOne, "39 deliveries, 40 expected");
}

#[test]
fn two_swapped_messages_are_caught() {
    check_caught(Mutant::SwapTwo, "out of their sender's order");
}

#[test]
fn a_doubled_message_is_caught() {
    check_caught(Mutant::DuplicateOne, "1 doubled events");
}

#[test]
fn swapped_events_are_caught_by_their_seqs() {
    let mut checker = Checker::new(vec![vec![0, 1]], &[0, 0], true);
    for n in 0..2 {
        assert_eq!(checker.send(0), n);
        checker.acked(0, n, n + 1);
    }
    checker.seen(1, 2, Some(Stamp { sender: 0, n: 1 }));
    checker.seen(1, 1, Some(Stamp { sender: 0, n: 0 }));
    let verdict = checker.verdict();
    assert_eq!((verdict.gaps, verdict.dups), (1, 1));
}

#[test]
fn a_message_stored_under_two_ids_is_caught() {
    let mut checker = Checker::new(vec![vec![0, 1]], &[0, 0], true);
    let n = checker.send(0);
    checker.acked(0, n, 1);
    let stamp = Some(Stamp { sender: 0, n });
    checker.seen(1, 1, stamp);
    checker.seen(1, 2, stamp);
    checker.audit(0, &[(1, stamp), (2, stamp)]);
    let verdict = checker.verdict();
    assert!(verdict.reordered > 0 && verdict.dups > 0 && verdict.contradictions > 0, "{verdict:?}");
}

#[test]
fn answers_that_contradict_are_caught() {
    let mut checker = Checker::new(vec![vec![0, 1]], &[0, 0], true);
    let n = checker.send(0);
    checker.acked(0, n, 1);
    checker.refused(0, n);
    checker.acked(0, 7, 1);
    checker.seen(1, 2, Some(Stamp { sender: 0, n }));
    assert_eq!(checker.verdict().contradictions, 3);
}

#[test]
fn refused_messages_are_no_loss_unless_they_are_stored() {
    let mut checker = Checker::new(vec![vec![0, 1]], &[0, 0], true);
    let n = checker.send(0);
    checker.refused(0, n);
    checker.audit(0, &[]);
    assert!(checker.verdict().faults().is_empty());
    checker.audit(0, &[(1, Some(Stamp { sender: 0, n }))]);
    assert_eq!(checker.verdict().contradictions, 1);
}

#[test]
fn unanswered_messages_are_reported_and_may_be_stored_after_a_kill() {
    let mut checker = Checker::new(vec![vec![0, 1]], &[0, 0], true);
    let n = checker.send(0);
    assert_eq!(checker.unanswered(), 1);
    assert!(checker.verdict().faults()[0].contains("1 sent, 0 acked"));
    checker.audit(0, &[(1, Some(Stamp { sender: 0, n }))]);
    assert_eq!((checker.verdict().lost, checker.verdict().contradictions), (0, 0));
}
