//! What one connection wants of which conversation, and what becomes of each event: pure bookkeeping without any IO.
//!
//! A subscription starts *replaying*: it is registered before the membership is checked and the log is read, so that nothing
//! falls between the replay and the live events. It becomes *live* in the same step in which the replay is found to have
//! reached everything that was published meanwhile. A full outbox puts it *behind* until one gap tells what was left out.

use haggle_model::{ConversationId, Seq};

/// How a subscription stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The log is being read; events up to `missed_head` were published since it was registered.
    Replaying {
        /// 0: none.
        missed_head: Seq,
    },
    /// Everything up to `last` is sent or told by a gap.
    Live {
        /// The last one.
        last: Seq,
    },
    /// Events after `last` up to `head` found the outbox full.
    Behind {
        /// The last one that was sent.
        last: Seq,
        /// The last one that was not.
        head: Seq,
    },
}

/// What to do with an event that was just published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Send it.
    Push,
    /// Leave it: it was sent, is replayed later, or a gap will tell it.
    Skip,
    /// Send a gap from here to this event instead.
    Gap {
        /// The first seq that is missing.
        from: Seq,
    },
    /// Not subscribed.
    Stranger,
}

/// Whether a replay that has reached a seq is at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// The subscription is live from here.
    Live,
    /// More was published meanwhile, up to this seq.
    More(Seq),
    /// The subscription is gone or was replaced by a newer one.
    Ended,
}

#[derive(Debug)]
struct Subscription {
    conversation: ConversationId,
    /// Tells a subscription from a later one to the same conversation.
    generation: u32,
    state: State,
    marks_missed: bool,
}

/// What a connection is told once its outbox is empty again.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct CaughtUp {
    /// Conversation, first missing seq, head.
    pub gaps: Vec<(ConversationId, Seq, Seq)>,
    /// Conversations whose marks are to be sent again.
    pub marks: Vec<ConversationId>,
}

/// All subscriptions of one connection, ordered by conversation.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    list: Vec<Subscription>,
    generations: u32,
}

impl Subscriptions {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// There is one to this conversation.
    pub fn contains(&self, conversation: ConversationId) -> bool {
        self.find(conversation).is_ok()
    }

    /// Starts or restarts one; returns its generation.
    pub fn register(&mut self, conversation: ConversationId) -> u32 {
        self.generations = self.generations.wrapping_add(1);
        let new = Subscription {
            conversation,
            generation: self.generations,
            state: State::Replaying { missed_head: 0 },
            marks_missed: false,
        };
        match self.find(conversation) {
            Ok(at) => self.list[at] = new,
            Err(at) => self.list.insert(at, new),
        }
        self.generations
    }

    /// Ends it; `false` when there was none.
    pub fn remove(&mut self, conversation: ConversationId) -> bool {
        let found = self.find(conversation);
        if let Ok(at) = found {
            self.list.remove(at);
        }
        found.is_ok()
    }

    /// Ends it if it is still this one.
    pub fn remove_generation(&mut self, conversation: ConversationId, generation: u32) {
        if self.is_current(conversation, generation) {
            self.remove(conversation);
        }
    }

    /// The generation of the one to this conversation.
    pub fn generation(&self, conversation: ConversationId) -> Option<u32> {
        self.find(conversation).ok().map(|at| self.list[at].generation)
    }

    /// Whether it is still this one.
    pub fn is_current(&self, conversation: ConversationId, generation: u32) -> bool {
        self.find(conversation).is_ok_and(|at| self.list[at].generation == generation)
    }

    /// Judges an event that was just published. With `room` false nothing may be sent now.
    pub fn offer(&mut self, conversation: ConversationId, seq: Seq, room: bool) -> Verdict {
        let Ok(at) = self.find(conversation) else { return Verdict::Stranger };
        let state = &mut self.list[at].state;
        let (next, verdict) = match *state {
            State::Replaying { missed_head } => (
                State::Replaying {
                    missed_head: missed_head.max(seq),
                },
                Verdict::Skip,
            ),
            State::Behind { last, head } => (State::Behind { last, head: head.max(seq) }, Verdict::Skip),
            State::Live { last } if seq <= last => (State::Live { last }, Verdict::Skip),
            State::Live { last } if !room => (State::Behind { last, head: seq }, Verdict::Skip),
            State::Live { last } if seq == last + 1 => (State::Live { last: seq }, Verdict::Push),
            State::Live { last } => (State::Live { last: seq }, Verdict::Gap { from: last + 1 }),
        };
        *state = next;
        verdict
    }

    /// An event that was judged [`Verdict::Push`] found no room after all.
    pub fn refused(&mut self, conversation: ConversationId, last: Seq, head: Seq) {
        if let Ok(at) = self.find(conversation) {
            self.list[at].state = State::Behind { last, head };
        }
    }

    /// A mark of the conversation was dropped.
    pub fn miss_mark(&mut self, conversation: ConversationId) {
        if let Ok(at) = self.find(conversation) {
            self.list[at].marks_missed = true;
        }
    }

    /// The replay has sent everything up to `seq`: goes live, if that is all.
    pub fn reach(&mut self, conversation: ConversationId, generation: u32, seq: Seq) -> Reached {
        match self.find(conversation) {
            Ok(at) if self.list[at].generation == generation => match self.list[at].state {
                State::Replaying { missed_head } if missed_head > seq => Reached::More(missed_head),
                _ => {
                    self.list[at].state = State::Live { last: seq };
                    Reached::Live
                }
            },
            _ => Reached::Ended,
        }
    }

    /// The replay gives up at `head` or whatever was published since: goes live there and returns that seq.
    pub fn skip_to(&mut self, conversation: ConversationId, generation: u32, head: Seq) -> Option<Seq> {
        let at = self.find(conversation).ok().filter(|&at| self.list[at].generation == generation)?;
        let last = match self.list[at].state {
            State::Replaying { missed_head } => missed_head.max(head),
            State::Live { last } => last.max(head),
            State::Behind { head: behind, .. } => behind.max(head),
        };
        self.list[at].state = State::Live { last };
        Some(last)
    }

    /// The outbox is empty: everything that was left out is told now.
    pub fn catch_up(&mut self) -> CaughtUp {
        let mut told = CaughtUp::default();
        for subscription in &mut self.list {
            if let State::Behind { last, head } = subscription.state {
                told.gaps.push((subscription.conversation, last + 1, head));
                subscription.state = State::Live { last: head };
            }
            if std::mem::take(&mut subscription.marks_missed) {
                told.marks.push(subscription.conversation);
            }
        }
        told
    }

    fn find(&self, conversation: ConversationId) -> Result<usize, usize> {
        self.list.binary_search_by_key(&conversation, |subscription| subscription.conversation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const C: ConversationId = ConversationId(7);

    enum Step {
        Offer(Seq, Verdict),
        /// The outbox is full.
        Full(Seq, Verdict),
        Reach(Seq, Reached),
        Skip(Seq, Option<Seq>),
        Drained(&'static [(Seq, Seq)]),
    }
    use Step::*;
    use Verdict::{Gap, Push};

    #[track_caller]
    fn check(steps: &[Step], expect: State) {
        let mut all = Subscriptions::default();
        all.register(ConversationId(1));
        let generation = all.register(C);
        all.register(ConversationId(9));
        for (n, step) in steps.iter().enumerate() {
            match *step {
                Offer(seq, verdict) => assert_eq!(all.offer(C, seq, true), verdict, "step {n}"),
                Full(seq, verdict) => assert_eq!(all.offer(C, seq, false), verdict, "step {n}"),
                Reach(seq, reached) => assert_eq!(all.reach(C, generation, seq), reached, "step {n}"),
                Skip(head, last) => assert_eq!(all.skip_to(C, generation, head), last, "step {n}"),
                Drained(gaps) => {
                    let told: Vec<_> = all
                        .catch_up()
                        .gaps
                        .into_iter()
                        .map(|(conversation, from, head)| (conversation == C, from, head))
                        .collect();
                    assert_eq!(told, gaps.iter().map(|&(from, head)| (true, from, head)).collect::<Vec<_>>(), "step {n}");
                }
            }
        }
        assert_eq!(all.list[all.find(C).unwrap()].state, expect);
    }

    #[test]
    fn live_events_follow_each_other() {
        check(&[Reach(5, Reached::Live), Offer(6, Push), Offer(7, Push)], State::Live { last: 7 });
    }

    #[test]
    fn what_was_sent_is_not_sent_again() {
        check(
            &[Reach(5, Reached::Live), Offer(4, Verdict::Skip), Offer(5, Verdict::Skip), Offer(6, Push)],
            State::Live { last: 6 },
        );
    }

    #[test]
    fn a_hole_is_told() {
        check(
            &[Reach(5, Reached::Live), Offer(9, Gap { from: 6 }), Offer(10, Push)],
            State::Live { last: 10 },
        );
    }

    #[test]
    fn what_is_published_during_a_replay_is_replayed() {
        check(
            &[
                Offer(6, Verdict::Skip),
                Reach(5, Reached::More(6)),
                Offer(7, Verdict::Skip),
                Reach(6, Reached::More(7)),
                Reach(7, Reached::Live),
                Offer(8, Push),
            ],
            State::Live { last: 8 },
        );
    }

    #[test]
    fn a_replay_that_reads_more_than_was_published_drops_the_late_publication() {
        check(
            &[
                Offer(6, Verdict::Skip),
                Reach(8, Reached::Live),
                Offer(7, Verdict::Skip),
                Offer(8, Verdict::Skip),
                Offer(9, Push),
            ],
            State::Live { last: 9 },
        );
    }

    #[test]
    fn giving_up_a_replay_includes_what_was_published_meanwhile() {
        check(
            &[Offer(900, Verdict::Skip), Skip(890, Some(900)), Offer(901, Push)],
            State::Live { last: 901 },
        );
        check(&[Skip(890, Some(890)), Offer(891, Push)], State::Live { last: 891 });
    }

    #[test]
    fn a_full_outbox_becomes_one_gap() {
        check(
            &[
                Reach(5, Reached::Live),
                Offer(6, Push),
                Full(7, Verdict::Skip),
                Full(8, Verdict::Skip),
                Offer(9, Verdict::Skip), // room again, but the gap must come first
                Drained(&[(7, 9)]),
                Offer(10, Push),
                Drained(&[]),
            ],
            State::Live { last: 10 },
        );
    }

    #[test]
    fn a_full_outbox_during_a_replay_loses_nothing() {
        check(
            &[Full(6, Verdict::Skip), Drained(&[]), Reach(5, Reached::More(6)), Reach(6, Reached::Live)],
            State::Live { last: 6 },
        );
    }

    #[test]
    fn a_subscription_that_was_replaced_or_ended_stops_its_replay() {
        let mut all = Subscriptions::default();
        let first = all.register(C);
        let second = all.register(C);
        assert_eq!(all.reach(C, first, 5), Reached::Ended);
        assert_eq!(all.skip_to(C, first, 5), None);
        all.remove_generation(C, first);
        assert!(all.contains(C), "the newer one stays");
        assert_eq!(all.reach(C, second, 5), Reached::Live);
        assert!(all.remove(C));
        assert!(!all.remove(C));
        assert_eq!((all.offer(C, 6, true), all.len()), (Verdict::Stranger, 0));
    }

    #[test]
    fn missed_marks_are_told_once() {
        let mut all = Subscriptions::default();
        let generation = all.register(C);
        all.reach(C, generation, 5);
        all.miss_mark(C);
        all.miss_mark(ConversationId(8));
        assert_eq!(
            all.catch_up(),
            CaughtUp {
                gaps: vec![],
                marks: vec![C]
            }
        );
        assert_eq!(all.catch_up(), CaughtUp::default());
    }

    /// Any order of publications, replays and full outboxes: the client sees every seq once, in order, or told by a gap.
    #[test]
    fn no_event_is_lost_or_doubled() {
        for seed in 1..3_000u64 {
            let mut random = crate::ws::frame::tests::Random(seed);
            let mut all = Subscriptions::default();
            let since = random.below(4) as Seq;
            let (mut stored, mut published) = (since + random.below(4) as Seq, 0);
            let generation = all.register(C);
            let (mut replayed, mut live, mut seen) = (since, false, since);
            for _ in 0..60 {
                match random.below(5) {
                    0 => stored += 1,
                    1 | 2 if published.max(since) < stored => {
                        published = published.max(since) + 1;
                        match all.offer(C, published, random.below(4) > 0) {
                            Push => {
                                assert_eq!(published, seen + 1, "seed {seed}");
                                seen = published;
                            }
                            Gap { from } => {
                                assert_eq!(from, seen + 1, "seed {seed}");
                                seen = published;
                            }
                            Verdict::Skip => {}
                            Verdict::Stranger => panic!("subscribed, seed {seed}"),
                        }
                    }
                    3 if !live => {
                        replayed = (replayed + 1 + random.below(2) as Seq).min(stored);
                        seen = replayed;
                        live = replayed == stored && all.reach(C, generation, replayed) == Reached::Live;
                    }
                    _ => {
                        for (_, from, head) in all.catch_up().gaps {
                            assert_eq!(from, seen + 1, "seed {seed}");
                            seen = head;
                        }
                    }
                }
            }
            all.catch_up().gaps.iter().for_each(|&(_, _, head)| seen = head);
            assert!(!live || seen >= published, "seed {seed}: all that was published is sent or told");
        }
    }
}
