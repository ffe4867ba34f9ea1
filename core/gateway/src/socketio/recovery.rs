//! Connection state recovery: a client that was cut off and comes back gets its place again, and what it missed.
//!
//! A [`Ring`] keeps the last pushes to one client as shared frames, whose events end with an offset. A client that is cut off
//! steps *away*: its [`Place`](super::place::Place) stays in the hub, or among the connections of its plugin, and goes on filling its
//! ring, until the client is back, known by its secret `pid`, or until its time is over. A plugin hears nothing of a cut that is
//! mended. Everything is bounded, and a client whose events are no longer all there is a new one.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use haggle_engine::Refusal;
use haggle_model::UserId;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{
    client,
    dialects::Dialect,
    encode,
    engineio::session::{By, Session},
    metrics::{self, Reason},
    permit::Permit,
    place::{Place, Seated, Stage},
};
use crate::{Identity, settings::SocketIoSettings, ws::frame};

/// Rings of clients that get nothing are looked at so often.
const TRIM_EVERY: Duration = Duration::from_secs(10);

// What one client may have missed.

/// The last pushes to one client, oldest first.
pub(super) struct Ring {
    kept: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    /// The last offset that is no longer kept: who has seen it has missed nothing but what is kept.
    lost: Option<u64>,
    /// A client whose last offset is older has it from before this ring, so of this ring it has seen nothing.
    first: u64,
    total: Arc<AtomicUsize>,
}

impl Ring {
    /// Keeps frames of events and their binary parts.
    pub fn push(&mut self, now: Instant, frames: Bytes, settings: &SocketIoSettings) {
        let total = self.total.fetch_add(frames.len(), Ordering::Relaxed) + frames.len();
        self.bytes += frames.len();
        self.kept.push_back((now, frames));
        if total > settings.recovery_total_bytes_max {
            self.trim(0, 0, None);
        }
        self.trim(
            settings.recovery_packets_max,
            settings.recovery_bytes_max,
            now.checked_sub(settings.recovery_within),
        );
    }

    /// Lets go of what is more than that, or older.
    fn trim(&mut self, packets_max: usize, bytes_max: usize, oldest: Option<Instant>) {
        while let Some((at, frames)) = self.kept.front() {
            let over = self.kept.len() > packets_max || self.bytes > bytes_max || oldest.is_some_and(|oldest| *at < oldest);
            if !over {
                return;
            }
            self.lost = last_offset(frames).or(self.lost);
            self.bytes -= frames.len();
            self.total.fetch_sub(frames.len(), Ordering::Relaxed);
            self.kept.pop_front();
        }
        self.kept = VecDeque::new(); // An empty one keeps no room.
    }

    /// What came after the event with this offset; `None` where that is not all there.
    fn after(&self, offset: Option<&str>) -> Option<Vec<Bytes>> {
        let all = || self.kept.iter().map(|(_, frames)| frames.clone()).collect();
        let Some(offset) = offset else {
            return self.lost.is_none().then(all);
        };
        let offset: u64 = offset.parse().ok()?;
        if self.lost == Some(offset) {
            return Some(all());
        }
        let seen = self
            .kept
            .iter()
            .enumerate()
            .rev()
            .find_map(|(n, (_, frames))| Some((n, rest_after(frames, offset)?)));
        match seen {
            Some((n, rest)) => {
                let later = self.kept.iter().skip(n + 1).map(|(_, frames)| frames.clone());
                Some(std::iter::once(rest).filter(|rest| !rest.is_empty()).chain(later).collect())
            }
            None => (offset < self.first && self.lost.is_none()).then(all),
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The offset at the end of an event.
fn offset_of(text: &[u8]) -> Option<u64> {
    let text = text.strip_suffix(b"\"]")?;
    let digits = text.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (rest, digits) = text.split_at(text.len() - digits);
    rest.ends_with(b",\"").then(|| std::str::from_utf8(digits).ok()?.parse().ok())?
}

fn last_offset(frames: &[u8]) -> Option<u64> {
    let texts = frame::encoded_messages(frames).filter(|(binary, _)| !binary);
    texts.filter_map(|(_, place)| offset_of(&frames[place])).last()
}

/// The frames behind the event with this offset, which are none where it is the last.
fn rest_after(frames: &Bytes, offset: u64) -> Option<Bytes> {
    let (mut found, mut end) = (false, 0);
    for (binary, place) in frame::encoded_messages(frames) {
        if found && !binary {
            break;
        }
        found |= !binary && offset_of(&frames[place.clone()]) == Some(offset);
        end = place.end;
    }
    found.then(|| frames.slice(end..))
}

// All of them.

/// Since when a client is away; with a number, since two may have gone at once.
type AwaySince = (Instant, u64);

/// Since when, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Away {
    since: AwaySince,
    reason: Reason,
}

/// Who can be recovered.
type Seat = Arc<dyn Seated>;

/// The clients that can be recovered, of one gateway.
#[derive(Default)]
pub(crate) struct Recovery {
    kept: Mutex<Kept>,
    bytes: Arc<AtomicUsize>,
    offsets: Arc<AtomicU64>,
}

#[derive(Default)]
struct Kept {
    by_pid: HashMap<Box<str>, Seat>,
    away: BTreeMap<AwaySince, Seat>,
    away_of: HashMap<UserId, VecDeque<AwaySince>>,
    next: u64,
    trimmed: Option<Instant>,
}

impl Kept {
    fn unpark(&mut self, since: AwaySince) -> Option<Seat> {
        let seat = self.away.remove(&since)?;
        if let Some(list) = self.away_of.get_mut(seat.user()) {
            list.retain(|other| *other != since);
            if list.is_empty() {
                self.away_of.remove(seat.user());
            }
        }
        Some(seat)
    }

    fn drop_away(&mut self, since: AwaySince) -> Option<Seat> {
        let seat = self.unpark(since)?;
        self.by_pid.remove(seat.place().pid().unwrap_or_default());
        Some(seat)
    }
}

/// The client did not come back.
fn forget(seat: Seat) {
    let reason = seat.place().line().stage.away().map_or(Reason::TransportClose, |away| away.reason);
    end(seat, reason);
}

/// The place is over for good, whoever finds that out first.
fn end(seat: Seat, reason: Reason) {
    let is_to_tell = seat.place().line().end(reason);
    if is_to_tell {
        tell_end(seat, reason);
    }
}

fn tell_end(seat: Seat, reason: Reason) {
    let place = seat.place();
    place.gateway.socketio.recovery.leave(place);
    seat.is_over(reason);
}

impl Recovery {
    /// The numbers behind events.
    pub fn offsets(&self) -> &Arc<AtomicU64> {
        &self.offsets
    }

    /// An empty ring.
    pub fn ring(&self) -> Box<Ring> {
        Box::new(Ring {
            kept: VecDeque::new(),
            bytes: 0,
            lost: None,
            first: self.offsets.load(Ordering::Relaxed),
            total: self.bytes.clone(),
        })
    }

    fn enter(&self, seat: &Seat) {
        if let Some(pid) = seat.place().pid() {
            self.kept.lock().by_pid.insert(pid.into(), seat.clone());
        }
    }

    fn leave(&self, place: &Place) {
        if let Some(pid) = place.pid() {
            self.kept.lock().by_pid.remove(pid);
        }
    }

    fn find(&self, pid: &str) -> Option<Seat> {
        self.kept.lock().by_pid.get(pid).cloned()
    }

    /// Keeps a place whose client is away; with those that are lost by that.
    fn park(&self, seat: &Seat, of_user_max: usize, all_max: usize) -> (AwaySince, Vec<Seat>) {
        let mut kept = self.kept.lock();
        kept.next += 1;
        let since = (Instant::now(), kept.next);
        kept.away.insert(since, seat.clone());
        let mut first_of_user = None;
        if let Some(user) = seat.place().named_user() {
            let of_user = kept.away_of.entry(user.clone()).or_default();
            of_user.push_back(since);
            first_of_user = (of_user.len() > of_user_max).then(|| of_user[0]);
        }
        let mut dropped: Vec<_> = first_of_user.into_iter().filter_map(|first| kept.drop_away(first)).collect();
        if kept.away.len() > all_max
            && let Some(first) = kept.away.keys().next().copied()
        {
            dropped.extend(kept.drop_away(first));
        }
        ::metrics::gauge!(metrics::RECOVERY_AWAY).set(kept.away.len() as f64);
        (since, dropped)
    }

    /// `false`: the place is lost already.
    fn unpark(&self, since: AwaySince) -> bool {
        let mut kept = self.kept.lock();
        let unparked = kept.unpark(since).is_some();
        ::metrics::gauge!(metrics::RECOVERY_AWAY).set(kept.away.len() as f64);
        unparked
    }

    /// Lets go of what is too old.
    pub fn tick(&self, settings: &SocketIoSettings, now: Instant) {
        let (mut late, mut idle) = (Vec::new(), Vec::new());
        {
            let mut kept = self.kept.lock();
            if kept.by_pid.is_empty() {
                return;
            }
            while let Some(since) = kept.away.keys().next().copied()
                && now >= since.0 + settings.recovery_within
            {
                late.extend(kept.drop_away(since));
            }
            ::metrics::gauge!(metrics::RECOVERY_AWAY).set(kept.away.len() as f64);
            if kept.trimmed.is_none_or(|at| now >= at + TRIM_EVERY) {
                kept.trimmed = Some(now);
                idle.extend(kept.by_pid.values().cloned());
            }
        }
        late.into_iter().for_each(forget);
        let oldest = now.checked_sub(settings.recovery_within);
        for seat in idle {
            if let Some(ring) = &mut seat.place().line().ring {
                ring.trim(usize::MAX, usize::MAX, oldest);
            }
        }
        ::metrics::gauge!(metrics::RECOVERY_BYTES).set(self.bytes.load(Ordering::Relaxed) as f64);
    }

    /// Keeps nobody's place any more.
    pub fn clear(&self) {
        let away: Vec<_> = {
            let mut kept = self.kept.lock();
            kept.by_pid.clear();
            kept.away_of.clear();
            std::mem::take(&mut kept.away).into_values().collect()
        };
        away.into_iter().for_each(forget);
        ::metrics::gauge!(metrics::RECOVERY_AWAY).set(0.0);
    }
}

// Coming, leaving, and coming back.

/// From now on the place is found by its pid, and told what happens. Its end may have come first.
pub(super) fn entered(seat: Seat) {
    let place = seat.place();
    place.gateway.socketio.recovery.enter(&seat);
    if place.named_user().is_some() {
        place.gateway.engine.connect(seat.clone());
    }
    let over = place.line().stage.known();
    if let Some(reason) = over {
        tell_end(seat, reason);
    }
}

/// The place in this session is over.
pub(super) fn left(seat: Seat, session: &Session, reason: Reason) {
    let (place, gateway) = (seat.place(), &session.gateway);
    let (settings, recovery) = (&gateway.settings, &gateway.socketio.recovery);
    let mut line = place.line();
    if !std::ptr::eq(&*line.session, session) {
        return; // The client is back already, in another session.
    }
    let may_come_back = matches!(line.stage, Stage::Here) && line.ring.is_some() && reason.is_a_cut() && !gateway.socketio.is_draining();
    if !may_come_back {
        let is_to_tell = line.end(reason);
        drop(line);
        if is_to_tell {
            tell_end(seat, reason);
        }
        return;
    }
    line.permit = None;
    let (since, dropped) = recovery.park(&seat, settings.ws.connections_per_user_max, settings.socketio.recovery_sessions_max);
    line.stage = Stage::Away(Away { since, reason });
    drop(line);
    match place.named_user() {
        Some(_) => gateway.engine.step_away(&*seat, reason.as_str(), || place.note_away()),
        None => place.note_away(),
    }
    dropped.into_iter().for_each(forget);
}

/// The client has missed something that is not kept: it cannot be recovered any more.
pub(super) fn give_up(seat: Seat) {
    let place = seat.place();
    let recovery = &place.gateway.socketio.recovery;
    let away = {
        let mut line = place.line();
        line.ring = None;
        line.stage.away()
    };
    match away {
        None => recovery.leave(place),
        Some(away) => {
            let lost = recovery.kept.lock().drop_away(away.since);
            lost.into_iter().for_each(forget);
        }
    }
}

/// What a client says that was here before.
#[derive(Debug, Default, Deserialize, PartialEq)]
pub(super) struct Asked {
    pid: Option<String>,
    offset: Option<String>,
}

impl Asked {
    /// From the data of its connect.
    pub fn of(data: Option<&RawValue>) -> Asked {
        data.and_then(|data| serde_json::from_str(data.get()).ok()).unwrap_or_default()
    }
}

/// Gives a client its place back, in the chat or in a plugin's namespace; `None`: it is a new one.
pub(super) fn resume(
    session: &Arc<Session>,
    dialect: Option<&Arc<Dialect>>,
    asked: &Asked,
    identity: Option<&Identity>,
) -> Result<Option<Seat>, Refusal> {
    let settings = session.settings();
    let namespace = dialect.map_or(&settings.namespace, |dialect| &dialect.settings.namespace);
    let Some(pid) = asked.pid.as_deref().filter(|_| settings.recovers(namespace)) else {
        return Ok(None);
    };
    let is_its = |seat: &Seat| {
        let same_namespace = seat.dialect().map(Arc::as_ptr) == dialect.map(Arc::as_ptr);
        same_namespace && seat.place().named_user() == identity.map(|identity| &identity.user)
    };
    let found = session.gateway.socketio.recovery.find(pid).filter(is_its);
    let (result, seat) = match found {
        None => ("unknown", None),
        Some(seat) if take_over(&seat, session, namespace, asked.offset.as_deref(), identity)? => ("recovered", Some(seat)),
        Some(_) => ("lost", None),
    };
    ::metrics::counter!(metrics::RECOVERIES, "result" => result).increment(1);
    Ok(seat)
}

fn take_over(seat: &Seat, session: &Arc<Session>, namespace: &str, offset: Option<&str>, identity: Option<&Identity>) -> Result<bool, Refusal> {
    let (place, gateway) = (seat.place(), &session.gateway);
    let mut line = place.line();
    let Some(missed) = line.ring.as_ref().and_then(|ring| ring.after(offset)) else {
        let is_away = line.stage.away().is_some();
        drop(line);
        if is_away {
            give_up(seat.clone()); // Its client will not ask for it again.
        }
        return Ok(false);
    };
    let was_away = line.stage.away();
    if let Some(away) = was_away {
        let permit = place.named_user().map(|user| Permit::of(gateway, user)).transpose()?;
        if !gateway.socketio.recovery.unpark(away.since) {
            return Ok(false);
        }
        (line.stage, line.permit) = (Stage::Here, permit);
    }
    let before = std::mem::replace(&mut line.session, session.clone());
    if let Some(identity) = identity {
        place.renew(identity.clone()).expect("the place is this user's");
    }
    client::rejoined(session, seat.clone().into_space());
    // The client keeps what comes before the connect until the connect has come.
    missed.into_iter().for_each(|frames| session.push(frames));
    session.push(encode::connected(namespace, &place.id, place.pid()));
    drop(line);
    // Where the server has not noticed the cut yet, or a copy of the client comes.
    before.close(Reason::ForcedServerClose, By::Server);
    if was_away.is_some() {
        match place.named_user() {
            Some(_) => gateway.engine.come_back(&**seat, || place.note_away()),
            None => place.note_away(),
        }
    }
    seat.clone().is_back();
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(recovery: &Recovery) -> Ring {
        *recovery.ring()
    }

    /// Two events with these offsets, the first with a binary part.
    fn frames(a: u64, b: u64) -> Bytes {
        let mut out = Vec::new();
        frame::append_text(&mut out, |out| {
            out.extend_from_slice(format!("451-/chat,[\"a\",{{}},\"{a}\"]").as_bytes())
        });
        frame::append_binary(&mut out, b"\x00\"7\"]");
        frame::append_text(&mut out, |out| out.extend_from_slice(format!("42/chat,[\"b\",\"{b}\"]").as_bytes()));
        Bytes::from(out)
    }

    fn messages(all: &[Bytes]) -> usize {
        all.iter().map(|frames| frame::encoded_messages(frames).count()).sum()
    }

    #[track_caller]
    fn check(ring: &Ring, offset: Option<&str>, expect: Option<usize>) {
        assert_eq!(ring.after(offset).map(|all| messages(&all)), expect, "{offset:?}");
    }

    #[test]
    fn offsets_stand_at_the_end() {
        for (text, expect) in [
            ("42/chat,[\"a\",{},\"17\"]", Some(17)),
            ("42/chat,[\"a\",\"17\",\"18\"]", Some(18)),
            ("42/chat,[\"a\",17]", None),
            ("42/chat,[\"a\",\"x17\"]", None),
            ("42/chat,[\"a\",\"\"]", None),
            ("42/chat,[\"17\"]", None),
            ("", None),
        ] {
            assert_eq!(offset_of(text.as_bytes()), expect, "{text}");
        }
    }

    #[test]
    fn what_came_after_an_offset() {
        let (recovery, settings) = (Recovery::default(), SocketIoSettings::default());
        recovery.offsets.store(5, Ordering::Relaxed);
        let mut ring = ring(&recovery);
        check(&ring, None, Some(0));
        let now = Instant::now();
        [(5, 6), (9, 10), (7, 8)]
            .into_iter()
            .for_each(|(a, b)| ring.push(now, frames(a, b), &settings));
        check(&ring, None, Some(9));
        check(&ring, Some("4"), Some(9)); // From before this ring.
        check(&ring, Some("5"), Some(7));
        check(&ring, Some("6"), Some(6));
        check(&ring, Some("10"), Some(3));
        check(&ring, Some("8"), Some(0));
        check(&ring, Some("11"), None);
        check(&ring, Some("x"), None);
    }

    #[test]
    fn rings_are_bounded_and_say_so() {
        let settings = SocketIoSettings {
            recovery_packets_max: 3,
            recovery_bytes_max: 10_000,
            recovery_within: Duration::from_secs(10),
            ..SocketIoSettings::default()
        };
        let recovery = Recovery::default();
        let mut ring = ring(&recovery);
        let start = Instant::now();
        (0..5u64).for_each(|n| ring.push(start + Duration::from_secs(n), frames(2 * n, 2 * n + 1), &settings));
        assert_eq!((ring.kept.len(), ring.lost), (3, Some(3)));
        check(&ring, Some("3"), Some(9)); // Missed exactly what is kept.
        check(&ring, Some("2"), None);
        check(&ring, None, None);
        ring.push(start + Duration::from_secs(13), frames(90, 91), &settings);
        assert_eq!((ring.kept.len(), ring.lost), (3, Some(5)), "the count");
        ring.push(start + Duration::from_secs(14), frames(92, 93), &settings);
        ring.trim(usize::MAX, usize::MAX, Some(start + Duration::from_secs(5)));
        assert_eq!((ring.kept.len(), ring.lost), (2, Some(9)), "the time");
        ring.push(
            start + Duration::from_secs(14),
            frames(94, 95),
            &SocketIoSettings {
                recovery_bytes_max: frames(94, 95).len(),
                ..settings.clone()
            },
        );
        assert_eq!((ring.kept.len(), ring.lost), (1, Some(93)), "the bytes");
        assert_eq!(recovery.bytes.load(Ordering::Relaxed), ring.bytes);
    }

    #[test]
    fn all_rings_together_are_bounded() {
        let settings = SocketIoSettings {
            recovery_total_bytes_max: 2 * frames(10, 11).len(),
            ..SocketIoSettings::default()
        };
        let recovery = Recovery::default();
        let (mut one, mut two) = (ring(&recovery), ring(&recovery));
        one.push(Instant::now(), frames(10, 11), &settings);
        one.push(Instant::now(), frames(12, 13), &settings);
        two.push(Instant::now(), frames(14, 15), &settings);
        check(&one, Some("11"), Some(3));
        check(&two, None, None); // There was no room for it,
        check(&two, Some("15"), Some(0)); // and who has seen it has missed nothing.
        drop(one);
        two.push(Instant::now(), frames(16, 17), &settings);
        check(&two, Some("15"), Some(3));
        drop(two);
        assert_eq!(recovery.bytes.load(Ordering::Relaxed), 0);
    }
}
