//! Random histories that an engine might have written.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use haggle_model::{
    Address, CommandId, Content, ConversationCreated, ConversationId, ConversationUpdate, Effects, Entry, Event, KeyRing, KvChange, MarkChange,
    MessageId, Millis, Notification, Outgoing, OutgoingItem, PluginId, Profile, Reservation, ReservationState, Role, Seq, Shard, TimerChange, UserId,
};

use super::{START, bare};

/// A small generator of numbers (splitmix64): the same seed gives the same run.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end` (at least 1).
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end.max(1) as u64) as usize
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of these; `None` when there is none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() { None } else { Some(&from[self.below(from.len())]) }
    }
}

/// Writes transactions that are right by the rules of the log: dense seqs, numbers that count, marks that stand somewhere.
pub struct History {
    random: Random,
    shards: u16,
    ts: u64,
    at: Millis,
    commands: u64,
    /// Who acts.
    pub users: Vec<UserId>,
    /// Every conversation that may have entries, with its address.
    pub conversations: Vec<(ConversationId, Address)>,
    places: BTreeMap<ConversationId, Place>,
    used: Vec<(ConversationId, CommandId)>,
}

#[derive(Default)]
struct Place {
    created: bool,
    seq: Seq,
    n: u32,
    /// `n` by seq; index 0 is before the first.
    numbers: Vec<u32>,
    messages: Vec<(Seq, UserId, u32)>,
    members: BTreeSet<UserId>,
}

const USERS: usize = 6;
const KEYS: [&str; 4] = ["a", "a/1", "a/2", "b"];

impl History {
    /// A history for a store with this secret and number of shards.
    pub fn new(seed: u64, secret: [u8; 32], shards: u16) -> History {
        let keys = KeyRing::new(secret);
        let users: Vec<UserId> = (0..USERS).map(|i| UserId::from(format!("user-{i}"))).collect();
        let plugin = PluginId::from("shop");
        let mut addresses = vec![
            Address::Broadcast("news".to_string()),
            Address::Plugin(plugin.clone()),
            Address::kv(&plugin, KEYS[0]),
        ];
        addresses.extend(users.iter().cloned().map(Address::Personal));
        addresses.extend((1..USERS).map(|i| Address::direct(&users[0], &users[i])));
        addresses.extend((0..3).map(|i| Address::Group(users[i].clone(), CommandId([i as u8; 16]))));
        addresses.extend((0..3).map(|i| Address::Context(plugin.clone(), "order".to_string(), i.to_string())));
        let conversations = addresses.into_iter().map(|address| (keys.key(&address), address)).collect();
        History {
            random: Random(seed),
            shards,
            ts: 0,
            at: START,
            commands: 0,
            users,
            conversations,
            places: BTreeMap::new(),
            used: Vec::new(),
        }
    }

    /// Commands that were used, with their conversation.
    pub fn commands(&self) -> &[(ConversationId, CommandId)] {
        &self.used
    }

    /// The next transaction: entries of one conversation, and the shard they belong to.
    pub fn transaction(&mut self) -> (Shard, Vec<Arc<Entry>>) {
        let (id, address) = self.conversations[self.random.below(self.conversations.len())].clone();
        self.at += self.random.below(5_000) as Millis - 500; // clocks are set back, too
        let actor = self.users[self.random.below(USERS)].clone();
        let events = match &address {
            Address::Kv(..) => vec![Event::Effects],
            Address::Personal(_) | Address::Plugin(_) => vec![self.personal_event()],
            _ if !self.places.entry(id).or_default().created => self.creation(&address, &actor),
            _ => (0..1 + self.random.below(3)).map(|_| self.shared_event(id, &actor)).collect(),
        };
        let command = (!self.random.one_in(3)).then(|| self.command(id));
        let entries = events.into_iter().map(|event| self.entry(id, &actor, command, event)).collect();
        (id.shard(self.shards), entries)
    }

    fn command(&mut self, id: ConversationId) -> CommandId {
        self.commands += 1;
        let command = CommandId::hash(&[&self.commands.to_be_bytes()]);
        self.used.push((id, command));
        command
    }

    /// Gives the event its place and counts it.
    fn entry(&mut self, id: ConversationId, actor: &UserId, command: Option<CommandId>, event: Event) -> Arc<Entry> {
        self.ts += 1 + self.random.below(50) as u64;
        let effects = self.effects(id, actor, &event);
        let place = self.places.entry(id).or_default();
        if event.is_sequenced() {
            place.seq += 1;
            place.count(actor, &event);
        }
        let (seq, n) = (if event.is_sequenced() { place.seq } else { 0 }, place.n);
        let origin = if self.random.one_in(5) {
            vec![PluginId::from("shop")]
        } else {
            Vec::new()
        };
        let digest = self.random.number();
        Arc::new(Entry {
            at: self.at,
            actor: Some(actor.clone()),
            command,
            digest,
            origin,
            effects,
            ..bare(self.ts, id, seq, n, event)
        })
    }

    fn creation(&mut self, address: &Address, actor: &UserId) -> Vec<Event> {
        let created = ConversationCreated {
            address: address.clone(),
            creator: Some(actor.clone()),
            name: self.random.one_in(2).then(|| "name".to_string()),
            avatar: None,
            state: self.random.one_in(2).then(|| "{}".to_string()),
        };
        let members: Vec<UserId> = match address {
            Address::Direct(a, b) => vec![a.clone(), b.clone()],
            Address::Broadcast(_) => Vec::new(),
            _ => self.users[..2 + self.random.below(USERS - 2)].to_vec(),
        };
        let joined = members.into_iter().map(|user| Event::ParticipantJoined { user, role: Role::Member });
        std::iter::once(Event::ConversationCreated(created)).chain(joined).collect()
    }

    fn shared_event(&mut self, id: ConversationId, actor: &UserId) -> Event {
        let user = self.users[self.random.below(USERS)].clone();
        let message = self.random.clone().pick(&self.places[&id].messages).cloned();
        let head = self.places[&id].seq;
        match (self.random.below(24), message) {
            (0..8, _) => Event::MessageCreated(self.content()),
            (8 | 9, Some((target, ..))) => Event::MessageEdited {
                target,
                content: self.content(),
            },
            (10 | 11, Some((target, sender, n))) => Event::MessageDeleted { target, sender, n },
            (12 | 13, Some((target, ..))) => Event::ReactionAdded {
                target,
                user,
                emoji: ["+1", "-1", "x"][self.random.below(3)].to_string(),
            },
            (14, Some((target, ..))) => Event::ReactionRemoved { target, user },
            (15, _) => Event::ParticipantJoined {
                user,
                role: if self.random.one_in(2) { Role::Admin } else { Role::Member },
            },
            (16, _) => Event::ParticipantLeft { user },
            (17, _) => Event::ParticipantUpdated { user, role: Role::Admin },
            (18, _) => {
                let mut field = || [None, Some(String::new()), Some("new".to_string())][self.random.below(3)].clone();
                Event::ConversationUpdated(ConversationUpdate {
                    name: field(),
                    avatar: field(),
                    state: field(),
                })
            }
            (19, _) if self.random.one_in(2) => Event::ConversationClosed(None),
            (19, _) => Event::ConversationReopened,
            (20, _) if self.random.one_in(2) => Event::UserBlocked { by: actor.clone() },
            (20, _) => Event::UserUnblocked { by: actor.clone() },
            (21, _) => Event::Effects,
            _ => Event::Marked {
                user,
                mark: self.mark(id, head),
            },
        }
    }

    fn personal_event(&mut self) -> Event {
        let conversation = self.conversations[self.random.below(self.conversations.len())].0;
        let head = self.places.get(&conversation).map_or(0, |place| place.seq);
        let user = self.users[self.random.below(USERS)].clone();
        let seq = 1 + self.random.below(head as usize + 3) as Seq;
        match self.random.below(16) {
            0 => Event::MembershipStarted(conversation),
            1 => Event::MembershipEnded(conversation),
            2 => Event::ConversationArchived {
                conversation,
                archived: self.random.one_in(2),
            },
            3 => Event::ConversationHidden { conversation, to_seq: seq },
            4 | 5 => Event::MessageHidden(conversation.message(seq)),
            6 => Event::ConversationMuted {
                conversation,
                until: self.random.one_in(2).then_some(seq.into()),
            },
            7 => Event::ProfileUpdated(Profile {
                name: Some(format!("name {seq}")),
                ..Profile::default()
            }),
            8 => Event::BlockListed {
                user,
                blocked: !self.random.one_in(3),
            },
            9 => Event::NotificationsRead((0..self.random.below(4)).map(|i| seq + i as Seq).collect()),
            10 => Event::AllNotificationsRead(seq),
            11 => Event::Effects,
            12 | 13 => {
                let broadcast = self.conversations[0].0;
                let head = self.places.get(&broadcast).map_or(0, |place| place.seq);
                Event::BroadcastMarked {
                    conversation: broadcast,
                    mark: self.mark(broadcast, head),
                }
            }
            _ => {
                let message = Some(MessageId { conversation, seq });
                let collapse = [None, Some("j".to_string()), Some("k".to_string())][self.random.below(3)].clone();
                Event::Notified(Notification {
                    topic: "T".to_string(),
                    message,
                    collapse,
                    ..Notification::default()
                })
            }
        }
    }

    fn content(&mut self) -> Content {
        let text = format!("text {}", self.random.below(1_000_000));
        let countable = !self.random.one_in(6);
        let kind = ["text", "image", "service_offer"][self.random.below(3)].to_string();
        Content {
            kind,
            text,
            countable,
            client_id: self.random.one_in(3).then(|| "c".to_string()),
            ..Content::default()
        }
    }

    fn mark(&mut self, id: ConversationId, head: Seq) -> MarkChange {
        let read_seq = self.random.below(head as usize + 1) as Seq;
        let read_n = self
            .places
            .get(&id)
            .and_then(|place| place.numbers.get(read_seq as usize))
            .copied()
            .unwrap_or_default();
        MarkChange {
            delivered_seq: self.random.below(head as usize + 1) as Seq,
            read_seq,
            read_n,
            own: self.random.below(3) as u32,
        }
    }

    fn effects(&mut self, id: ConversationId, actor: &UserId, event: &Event) -> Effects {
        let mut effects = Effects::default();
        let head = self.places.get(&id).map_or(0, |place| place.seq);
        if matches!(event, Event::MessageCreated(_)) && self.random.one_in(2) {
            effects.mark = Some(self.mark(id, head));
        }
        if !matches!(event, Event::Effects) && !self.random.one_in(6) {
            return effects;
        }
        let plugin = PluginId::from(["shop", "other"][self.random.below(2)]);
        let key = KEYS[self.random.below(KEYS.len())].to_string();
        let number = self.random.below(1_000_000);
        match self.random.below(5) {
            0 | 1 => {
                let value = (!self.random.one_in(3)).then(|| number.to_be_bytes().to_vec());
                effects.kv.push(KvChange {
                    plugin,
                    key,
                    value,
                    expires_at: self.random.one_in(2).then_some(self.at),
                });
            }
            2 => {
                let state = ReservationState {
                    holder: CommandId([number as u8; 16]),
                    conversation: id,
                    value: vec![1],
                    since: self.at,
                    kept: false,
                };
                effects.reservations.push(Reservation {
                    plugin,
                    key,
                    state: (!self.random.one_in(3)).then_some(state),
                });
            }
            3 => {
                // Due times differ, so that every store sorts timers alike.
                let due = (!self.random.one_in(3)).then_some(self.at + self.ts as Millis * 10_000);
                effects.timers.push(TimerChange {
                    plugin,
                    name: key,
                    due,
                    payload: number.to_string(),
                });
            }
            _ => {
                effects.answer = Some(number.to_string());
                effects.outgoing.push(OutgoingItem {
                    to: Address::Personal(actor.clone()),
                    what: Outgoing::Personal(Event::MembershipStarted(id)),
                    origin: Vec::new(),
                });
            }
        }
        effects
    }
}

impl Place {
    fn count(&mut self, actor: &UserId, event: &Event) {
        match event {
            Event::ConversationCreated(_) => self.created = true,
            Event::MessageCreated(content) => {
                self.n += u32::from(content.countable);
                self.messages.push((self.seq, actor.clone(), if content.countable { self.n } else { 0 }));
            }
            Event::MessageDeleted { target, .. } => self.messages.retain(|(seq, ..)| seq != target),
            Event::ParticipantJoined { user, .. } => drop(self.members.insert(user.clone())),
            Event::ParticipantLeft { user } => drop(self.members.remove(user)),
            _ => {}
        }
        self.numbers.resize(self.seq as usize + 1, self.n);
        self.numbers[self.seq as usize] = self.n;
    }
}
