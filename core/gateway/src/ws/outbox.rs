//! What waits to be written to one connection: bounded in bytes and frames, in three classes.
//!
//! *Control* (answers, notices) is always taken; reading stops while much of it waits, so it is bounded by the requests in
//! flight. *Durable* events are taken until the box is full; then the connection lags, and is told with a gap what it missed.
//! *Ephemeral* frames are the first to go: above half they replace an older one that says the same, or are dropped.

use std::{cell::RefCell, collections::VecDeque, io::IoSlice};

use bytes::Bytes;
use haggle_model::{ConversationId, UserId};

use super::frame;

/// Slices handed to the system in one call.
const SLICES_MAX: usize = 64;
/// So few bytes are rather copied into one slice: `send` of one costs less than `writev` of several.
const COPIED_BYTES_MAX: usize = 4 * 1024;
/// Bytes taken out of the box for one write; at least one frame is taken whatever its size.
const BATCH_BYTES: usize = 64 * 1024;
/// Room that the answers take at first: one to a message and a bit.
const CONTROL_BYTES: usize = 160;
/// Empty queues give their memory back above so many places.
const KEPT_CAPACITY: usize = 4;

/// What an ephemeral frame is about: a newer one with the same key makes an older one pointless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Topic {
    /// Typing of a user in a conversation.
    Typing(ConversationId, UserId),
    /// Presence of a user.
    Presence(UserId),
    /// The marks of a user in a conversation.
    Mark(ConversationId, UserId),
    /// A conversation's head.
    Head(ConversationId),
    /// Never the same as another.
    Alone,
}

/// What became of an offered frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// It waits.
    Accepted,
    /// An older one with the same topic made place for it.
    Replaced,
    /// There is no room.
    Full,
}

/// The bounds of an [`Outbox`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes of waiting frames.
    pub bytes_max: usize,
    /// Waiting frames.
    pub frames_max: usize,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Outbox {
    /// Frames one behind the other: answers are small and for this connection alone.
    control: Vec<u8>,
    control_frames: usize,
    /// The payload of the last ping; a pong answers all pings before it.
    pong: Option<Box<[u8]>>,
    durable: VecDeque<Bytes>,
    ephemeral: VecDeque<(Topic, Bytes)>,
    /// Bytes of the two queues above.
    queued_bytes: usize,
}

impl Outbox {
    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.control.len() + self.queued_bytes
    }

    /// Frames that wait.
    pub fn frames(&self) -> usize {
        self.control_frames + self.durable.len() + self.ephemeral.len()
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.control.is_empty() && self.durable.is_empty() && self.ephemeral.is_empty() && self.pong.is_none()
    }

    /// Less than half of either bound is used.
    pub fn is_half_empty(&self, bounds: Bounds) -> bool {
        self.bytes() < bounds.bytes_max / 2 && self.frames() < bounds.frames_max / 2
    }

    /// Adds a control frame whose JSON `write` appends.
    pub fn control(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.control.capacity() == 0 {
            self.control.reserve_exact(CONTROL_BYTES);
        }
        frame::append_text(&mut self.control, write);
        self.control_frames += 1;
    }

    /// Answers a ping with the next write.
    pub fn pong(&mut self, payload: &[u8]) {
        self.pong = Some(payload.into());
    }

    /// Adds a durable frame if there is room.
    pub fn durable(&mut self, frame: Bytes, bounds: Bounds) -> Offer {
        if self.frames() >= bounds.frames_max || self.bytes() + frame.len() > bounds.bytes_max {
            return Offer::Full;
        }
        self.notice(frame);
        Offer::Accepted
    }

    /// Adds a frame in the order of the durable ones whether there is room or not; for gaps, of which there are few.
    pub fn notice(&mut self, frame: Bytes) {
        self.queued_bytes += frame.len();
        self.durable.push_back(frame);
    }

    /// Adds an ephemeral frame, replaces one of the same topic, or refuses it.
    pub fn ephemeral(&mut self, topic: Topic, frame: Bytes, bounds: Bounds) -> Offer {
        if self.is_half_empty(bounds) {
            self.queued_bytes += frame.len();
            self.ephemeral.push_back((topic, frame));
            return Offer::Accepted;
        }
        let same = |(waiting, _): &&mut (Topic, Bytes)| topic != Topic::Alone && *waiting == topic;
        let Some((_, waiting)) = self.ephemeral.iter_mut().find(same) else {
            return Offer::Full;
        };
        self.queued_bytes = self.queued_bytes - waiting.len() + frame.len();
        *waiting = frame;
        Offer::Replaced
    }

    /// Keeps only the answers, or with `discard` nothing, and adds a last frame. Events are found again by their cursors.
    pub fn seal(&mut self, discard: bool, last: impl FnOnce(&mut Vec<u8>)) {
        let control = std::mem::take(&mut self.control);
        *self = Outbox::default();
        if !discard {
            self.control = control;
        }
        last(&mut self.control);
        self.control_frames = 1;
    }

    /// Moves what is due next into `batch`: control before durable before ephemeral.
    pub fn take(&mut self, batch: &mut Batch) {
        if let Some(payload) = self.pong.take() {
            frame::append_pong(&mut self.control, &payload);
        }
        if !self.control.is_empty() {
            batch.push(Bytes::from(std::mem::take(&mut self.control)));
            self.control_frames = 0;
        }
        while batch.has_room()
            && let Some(frame) = self.durable.pop_front()
        {
            self.queued_bytes -= frame.len();
            batch.push(frame);
        }
        while batch.has_room()
            && let Some((_, frame)) = self.ephemeral.pop_front()
        {
            self.queued_bytes -= frame.len();
            batch.push(frame);
        }
        release(&mut self.durable);
        release(&mut self.ephemeral);
    }
}

/// Gives back the memory of a queue that has become empty: most connections are idle most of the time.
fn release<T>(queue: &mut VecDeque<T>) {
    if queue.is_empty() && queue.capacity() > KEPT_CAPACITY {
        *queue = VecDeque::new();
    }
}

/// What a [`Batch`] lends out to be written.
pub(crate) enum Due<'a> {
    /// All of it.
    One(&'a [u8]),
    /// In pieces, at most [`SLICES_MAX`] of them.
    Many(&'a [IoSlice<'a>]),
}

/// Frames that are being written, the first of them perhaps in part.
#[derive(Default)]
pub(crate) struct Batch {
    frames: VecDeque<Bytes>,
    bytes: usize,
    /// Bytes of the first frame that are written.
    written: usize,
}

impl Batch {
    /// Nothing is left to write.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Adds bytes behind what is there.
    pub fn push(&mut self, frame: Bytes) {
        self.bytes += frame.len();
        self.frames.push_back(frame);
    }

    pub(crate) fn has_room(&self) -> bool {
        self.frames.is_empty() || (self.frames.len() < SLICES_MAX && self.bytes < BATCH_BYTES)
    }

    /// Lends what is left to `write`.
    pub fn lend<T>(&self, write: impl FnOnce(Due<'_>) -> T) -> T {
        thread_local! {
            static COPY: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(COPIED_BYTES_MAX));
        }
        if let (1, Some(frame)) = (self.frames.len(), self.frames.front()) {
            return write(Due::One(&frame[self.written..]));
        }
        if self.bytes <= COPIED_BYTES_MAX {
            return COPY.with_borrow_mut(|copy| {
                copy.clear();
                self.left().for_each(|frame| copy.extend_from_slice(frame));
                write(Due::One(copy))
            });
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut count = 0;
        for (slice, frame) in slices.iter_mut().zip(self.left()) {
            *slice = IoSlice::new(frame);
            count += 1;
        }
        write(Due::Many(&slices[..count]))
    }

    /// What is left of each frame.
    fn left(&self) -> impl Iterator<Item = &[u8]> {
        let mut skip = self.written;
        self.frames.iter().map(move |frame| &frame[std::mem::take(&mut skip)..])
    }

    /// Forgets `bytes` that were written.
    pub fn advance(&mut self, mut bytes: usize) {
        self.bytes -= bytes;
        while let Some(first) = self.frames.front() {
            let left = first.len() - self.written;
            if bytes < left {
                self.written += bytes;
                return;
            }
            bytes -= left;
            self.written = 0;
            self.frames.pop_front();
        }
        release(&mut self.frames);
    }

    /// Keeps only the frame that is written in part, so that the stream stays in step.
    pub fn keep_started(&mut self) {
        self.frames.truncate(usize::from(self.written > 0));
        self.bytes = self.frames.front().map_or(0, |first| first.len() - self.written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        bytes_max: 1_000,
        frames_max: 10,
    };

    fn of(size: usize, byte: u8) -> Bytes {
        Bytes::from(vec![byte; size])
    }

    fn due(batch: &Batch) -> Vec<u8> {
        batch.lend(|due| match due {
            Due::One(bytes) => bytes.to_vec(),
            Due::Many(slices) => slices.iter().flat_map(|slice| slice.to_vec()).collect(),
        })
    }

    fn written(outbox: &mut Outbox) -> Vec<u8> {
        let mut all = Vec::new();
        let mut batch = Batch::default();
        while !outbox.is_empty() {
            outbox.take(&mut batch);
            all.extend(due(&batch));
            batch.advance(batch.bytes);
        }
        all
    }

    fn typing(user: &str) -> Topic {
        Topic::Typing(ConversationId(1), user.into())
    }

    #[test]
    fn control_goes_before_durable_before_ephemeral() {
        let mut outbox = Outbox::default();
        outbox.ephemeral(Topic::Alone, of(1, b'e'), BOUNDS);
        outbox.durable(of(1, b'd'), BOUNDS);
        outbox.control(|out| out.push(b'c'));
        outbox.pong(b"1");
        outbox.pong(b"2");
        assert_eq!(written(&mut outbox), b"\x81\x01c\x8a\x012de", "and only the last ping is answered");
        assert_eq!((outbox.bytes(), outbox.frames()), (0, 0));
    }

    #[test]
    fn durable_frames_end_at_the_bounds() {
        let mut outbox = Outbox::default();
        for _ in 0..10 {
            assert_eq!(outbox.durable(of(10, 0), BOUNDS), Offer::Accepted);
        }
        assert_eq!(outbox.durable(of(1, 0), BOUNDS), Offer::Full, "frames");
        let mut outbox = Outbox::default();
        assert_eq!(outbox.durable(of(1_000, 0), BOUNDS), Offer::Accepted);
        assert_eq!(outbox.durable(of(1, 0), BOUNDS), Offer::Full, "bytes");
        outbox.control(|out| out.push(b'c'));
        assert_eq!(outbox.bytes(), 1_003, "control is always taken");
    }

    #[test]
    fn above_half_ephemeral_frames_replace_their_like_or_are_dropped() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.ephemeral(typing("ann"), of(10, b'1'), BOUNDS), Offer::Accepted);
        assert_eq!(
            outbox.ephemeral(typing("ann"), of(10, b'2'), BOUNDS),
            Offer::Accepted,
            "below half all are kept"
        );
        assert_eq!(outbox.ephemeral(Topic::Alone, of(10, b'x'), BOUNDS), Offer::Accepted);
        outbox.durable(of(600, b'd'), BOUNDS);
        assert_eq!(outbox.ephemeral(typing("ann"), of(20, b'3'), BOUNDS), Offer::Replaced);
        assert_eq!(outbox.ephemeral(typing("bob"), of(10, b'4'), BOUNDS), Offer::Full);
        assert_eq!(outbox.ephemeral(Topic::Alone, of(10, b'5'), BOUNDS), Offer::Full);
        assert_eq!(outbox.bytes(), 640);
        let expect: Vec<u8> = [of(600, b'd'), of(20, b'3'), of(10, b'2'), of(10, b'x')].concat();
        assert_eq!(written(&mut outbox), expect);
    }

    #[test]
    fn partial_writes_continue_where_they_stopped() {
        let mut outbox = Outbox::default();
        let bounds = Bounds {
            bytes_max: 1_000_000,
            frames_max: 10_000,
        };
        let mut expect = Vec::new();
        for n in 0..300usize {
            let frame = of(1 + 3 * (n % 97), n as u8); // so that some batches are lent in pieces
            expect.extend_from_slice(&frame);
            outbox.durable(frame, bounds);
        }
        for step in [1, 3, 64, 1_000] {
            let mut copy = Outbox::default();
            outbox.durable.iter().for_each(|frame| copy.notice(frame.clone()));
            let (mut batch, mut seen) = (Batch::default(), Vec::new());
            loop {
                if batch.is_empty() {
                    copy.take(&mut batch);
                    if batch.is_empty() {
                        break;
                    }
                }
                let all = due(&batch);
                let taken = step.min(all.len());
                seen.extend_from_slice(&all[..taken]);
                batch.advance(taken);
            }
            assert!(seen == expect, "steps of {step}");
        }
    }

    #[test]
    fn a_batch_is_bounded_in_slices_and_bytes() {
        let bounds = Bounds {
            bytes_max: 10_000_000,
            frames_max: 10_000,
        };
        let mut outbox = Outbox::default();
        (0..200).for_each(|_| assert_eq!(outbox.durable(of(10, 0), bounds), Offer::Accepted));
        let mut batch = Batch::default();
        outbox.take(&mut batch);
        assert_eq!(batch.frames.len(), SLICES_MAX);

        let mut outbox = Outbox::default();
        (0..200).for_each(|_| assert_eq!(outbox.durable(of(30_000, 0), bounds), Offer::Accepted));
        let mut batch = Batch::default();
        outbox.take(&mut batch);
        assert_eq!(batch.frames.len(), 3, "until 64 KiB are reached");
    }

    #[test]
    fn only_the_started_frame_survives_giving_up() {
        let mut outbox = Outbox::default();
        (0..3).for_each(|n| assert_eq!(outbox.durable(of(10, n), BOUNDS), Offer::Accepted));
        let mut batch = Batch::default();
        outbox.take(&mut batch);
        batch.advance(14);
        batch.keep_started();
        assert_eq!(due(&batch), [1; 6]);
        batch.advance(6);
        assert!(batch.is_empty());
    }

    #[test]
    fn sealing_keeps_answers_before_the_last_frame() {
        for (discard, expect) in [(false, b"\x81\x01c\x88\x00".as_slice()), (true, b"\x88\x00")] {
            let mut outbox = Outbox::default();
            outbox.durable(of(1, b'd'), BOUNDS);
            outbox.ephemeral(Topic::Alone, of(1, b'e'), BOUNDS);
            outbox.control(|out| out.push(b'c'));
            outbox.seal(discard, |out| frame::append_close(out, None, ""));
            assert_eq!(written(&mut outbox), expect);
        }
    }

    #[test]
    fn an_empty_box_holds_no_memory() {
        let mut outbox = Outbox::default();
        for n in 0..200 {
            outbox.durable(
                of(10, n),
                Bounds {
                    bytes_max: 100_000,
                    frames_max: 1_000,
                },
            );
        }
        written(&mut outbox);
        assert!(outbox.durable.capacity() <= KEPT_CAPACITY && outbox.control.capacity() == 0);
    }
}
