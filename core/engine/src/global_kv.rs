//! Plugin kv that all conversations share, and reservations in it.
//!
//! A key lives in a part of its plugin's kv; the part is a conversation of its own, so that its shard decides who gets a key.
//! Reading and reserving take no turn: they stage optimistically, on what they have seen.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use haggle_model::{
    Address, CommandId, ConversationId, Effects, ErrorCode, Event, KvChange, Millis, Outgoing, OutgoingItem, PluginId, Reservation, ReservationState,
    UserId,
};
use tokio::sync::oneshot;

use crate::{
    Inner, Outcome, Refusal,
    commands_seen::Seen,
    conversation::{Conversation, unavailable},
    transaction::{Item, Stamp, Transaction},
};

/// A pending reservation older than this is settled by who meets it.
const SETTLE_AFTER_MS: Millis = 10_000;
/// How often a step looks again because something was staged meanwhile.
const LOOKS_MAX: usize = 32;

/// The parts in which keys live, in the order in which they are acquired.
pub(crate) fn by_part(plugin: &PluginId, keys: &[String]) -> Vec<(Address, Vec<String>)> {
    let mut parts: BTreeMap<u8, (Address, Vec<String>)> = BTreeMap::new();
    for key in keys {
        let address = Address::kv(plugin, key);
        let Address::Kv(_, part) = address else {
            unreachable!("Address::kv makes kv parts")
        };
        parts.entry(part).or_insert_with(|| (address, Vec::new())).1.push(key.clone());
    }
    parts.into_values().collect()
}

/// What the holder's transaction carries so that its reservation stays.
pub(crate) fn keep(plugin: &PluginId, keys: &[String], holder: CommandId, origin: &[PluginId]) -> Vec<OutgoingItem> {
    let item = |(to, keys)| OutgoingItem {
        to,
        what: Outgoing::Keep {
            plugin: plugin.clone(),
            keys,
            holder,
        },
        origin: origin.to_vec(),
    };
    by_part(plugin, keys).into_iter().map(item).collect()
}

/// The committed value of a key: a kept reservation's, one's own, or what was set.
pub(crate) async fn get(engine: &Arc<Inner>, plugin: &PluginId, key: &str, command: CommandId) -> Result<Option<Vec<u8>>, Refusal> {
    let address = Address::kv(plugin, key);
    let part = engine.warmed(&address).await?;
    let cell = Cell::committed(engine, &part, plugin, key).await?;
    let held = cell.held.filter(|held| held.kept || held.holder == command).map(|held| held.value);
    Ok(held.or(cell.value.map(|value| value.bytes)))
}

/// Set-if-absent of all keys for `command`, which runs in `holder`'s turn: all or none.
pub(crate) async fn reserve(
    engine: &Arc<Inner>,
    plugin: &PluginId,
    keys: &[String],
    value: &[u8],
    command: CommandId,
    holder: ConversationId,
) -> Result<bool, Refusal> {
    let mut got: Vec<String> = Vec::new();
    for (address, keys) in by_part(plugin, keys) {
        let part = engine.warmed(&address).await?;
        match reserve_in(engine, &part, &address, plugin, &keys, value, command, holder).await {
            Ok(true) => got.extend(keys),
            Ok(false) => {
                give_back(engine, plugin, &got, command).await;
                // Whoever is told that somebody has the keys can rely on it.
                durable(&part).await?;
                return Ok(false);
            }
            Err(refusal) => {
                give_back(engine, plugin, &got, command).await;
                return Err(refusal);
            }
        }
    }
    Ok(true)
}

#[allow(clippy::too_many_arguments, reason = "one step of reserve")]
async fn reserve_in(
    engine: &Arc<Inner>,
    part: &Arc<Conversation>,
    address: &Address,
    plugin: &PluginId,
    keys: &[String],
    value: &[u8],
    command: CommandId,
    holder: ConversationId,
) -> Result<bool, Refusal> {
    for _ in 0..LOOKS_MAX {
        let seen = part.with_state(|state| state.last_ticket);
        let mut wanted = Vec::new();
        for key in keys {
            let cell = Cell::read(engine, part, plugin, key).await?;
            match cell.held {
                Some(held) if held.holder == command && held.kept => continue,
                // An earlier attempt's, or one's own: made new, so that nobody who is about to settle it gets it.
                Some(held) if held.holder == command => {}
                Some(held) if held.kept || engine.clock.now() - held.since < SETTLE_AFTER_MS => return Ok(false),
                Some(held) if !settle(engine, &held).await? => return Ok(false),
                Some(_) => {}
                None if cell.value.is_some() => return Ok(false),
                None => {}
            }
            let state = ReservationState {
                holder: command,
                conversation: holder,
                value: value.to_vec(),
                since: engine.clock.now(),
                kept: false,
            };
            wanted.push(Reservation {
                plugin: plugin.clone(),
                key: key.clone(),
                state: Some(state),
            });
        }
        if wanted.is_empty()
            || stage(
                engine,
                part,
                address,
                Effects {
                    reservations: wanted,
                    ..Effects::default()
                },
                seen,
            )
            .await?
        {
            return Ok(true);
        }
    }
    Err(busy())
}

/// Gives back what `command` holds of these keys and has not kept. Best effort: what stays pending is settled by who meets it.
pub(crate) async fn give_back(engine: &Arc<Inner>, plugin: &PluginId, keys: &[String], command: CommandId) {
    for (address, keys) in by_part(plugin, keys) {
        let released = release_in(engine, &address, plugin, &keys, |held| held.holder == command && !held.kept).await;
        if let Err(refusal) = released {
            tracing::warn!(%plugin, %refusal, "a reservation could not be given back; it is settled when somebody meets it");
        }
    }
}

/// Applies an outgoing item to a part of the kv. It may come again: `id` tells that it was applied.
pub(crate) async fn deliver(engine: &Arc<Inner>, address: &Address, what: &Outgoing, id: CommandId) -> Result<(), Refusal> {
    match what {
        Outgoing::Kv(changes) => set_in(engine, address, changes, id).await,
        Outgoing::Add { plugin, key, by } => add_in(engine, address, plugin, key, *by, id).await,
        // No other command holds for this holder, so a second time changes nothing.
        Outgoing::Keep { plugin, keys, holder } => keep_in(engine, address, plugin, keys, *holder).await,
        Outgoing::Release {
            plugin,
            keys,
            holder: Some(holder),
        } => release_in(engine, address, plugin, keys, |held| held.holder == *holder).await,
        Outgoing::Release { plugin, keys, holder: None } => release_once(engine, address, plugin, keys, id).await,
        _ => Err(Refusal::new(ErrorCode::Internal, "not an item for a part of the kv")),
    }
}

/// Whether the item with this id has been applied to the part.
async fn applied(engine: &Arc<Inner>, part: &Conversation, id: CommandId) -> Result<bool, Refusal> {
    Ok(match part.with_state(|state| state.commands.get(id)) {
        Seen::Yes(_) => true,
        Seen::No => false,
        Seen::Maybe => engine.store.command(part.id, id).await?.is_some(),
    })
}

async fn set_in(engine: &Arc<Inner>, address: &Address, changes: &[KvChange], id: CommandId) -> Result<(), Refusal> {
    let part = engine.warmed(address).await?;
    for _ in 0..LOOKS_MAX {
        let seen = part.with_state(|state| state.last_ticket);
        let effects = Effects {
            kv: changes.to_vec(),
            ..Effects::default()
        };
        if applied(engine, &part, id).await? || stage_as(engine, &part, address, effects, seen, Some(id)).await? {
            return Ok(());
        }
    }
    Err(busy())
}

/// Adds to the number at a key, once per `id`: what stands there is read and replaced in one step of the part. It stays within
/// `i64`, and a key that ends at some time still does.
async fn add_in(engine: &Arc<Inner>, address: &Address, plugin: &PluginId, key: &str, by: i64, id: CommandId) -> Result<(), Refusal> {
    let part = engine.warmed(address).await?;
    for _ in 0..LOOKS_MAX {
        let seen = part.with_state(|state| state.last_ticket);
        if applied(engine, &part, id).await? {
            return Ok(());
        }
        let before = Cell::read(engine, &part, plugin, key).await?.value;
        let number = before.as_ref().map_or(Ok(0), |before| number(key, &before.bytes))?;
        let change = KvChange {
            plugin: plugin.clone(),
            key: key.to_owned(),
            value: Some(number.saturating_add(by).to_string().into_bytes()),
            expires_at: before.and_then(|before| before.expires_at),
        };
        let effects = Effects {
            kv: vec![change],
            ..Effects::default()
        };
        if stage_as(engine, &part, address, effects, seen, Some(id)).await? {
            return Ok(());
        }
    }
    Err(busy())
}

/// The number that a value is the decimal text of.
fn number(key: &str, value: &[u8]) -> Result<i64, Refusal> {
    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| Refusal::new(ErrorCode::Conflict, format!("what stands at the key {key:?} is no number to add to")))
}

/// Frees keys whoever holds them, and remembers that it did, even where nobody held any: a second time somebody new may.
async fn release_once(engine: &Arc<Inner>, address: &Address, plugin: &PluginId, keys: &[String], id: CommandId) -> Result<(), Refusal> {
    let part = engine.warmed(address).await?;
    for _ in 0..LOOKS_MAX {
        let seen = part.with_state(|state| state.last_ticket);
        let free = |key: &String| Reservation {
            plugin: plugin.clone(),
            key: key.clone(),
            state: None,
        };
        let effects = Effects {
            reservations: keys.iter().map(free).collect(),
            ..Effects::default()
        };
        if applied(engine, &part, id).await? || stage_as(engine, &part, address, effects, seen, Some(id)).await? {
            return Ok(());
        }
    }
    Err(busy())
}

async fn keep_in(engine: &Arc<Inner>, address: &Address, plugin: &PluginId, keys: &[String], holder: CommandId) -> Result<(), Refusal> {
    let part = engine.warmed(address).await?;
    for _ in 0..LOOKS_MAX {
        let seen = part.with_state(|state| state.last_ticket);
        let mut kept = Vec::new();
        for key in keys {
            let held = Cell::read(engine, &part, plugin, key).await?.held;
            if let Some(held) = held.filter(|held| held.holder == holder && !held.kept) {
                kept.push(Reservation {
                    plugin: plugin.clone(),
                    key: key.clone(),
                    state: Some(ReservationState { kept: true, ..held }),
                });
            }
        }
        if kept.is_empty()
            || stage(
                engine,
                &part,
                address,
                Effects {
                    reservations: kept,
                    ..Effects::default()
                },
                seen,
            )
            .await?
        {
            return Ok(());
        }
    }
    Err(busy())
}

async fn release_in(
    engine: &Arc<Inner>,
    address: &Address,
    plugin: &PluginId,
    keys: &[String],
    matches: impl Fn(&ReservationState) -> bool,
) -> Result<(), Refusal> {
    let part = engine.warmed(address).await?;
    for _ in 0..LOOKS_MAX {
        let seen = part.with_state(|state| state.last_ticket);
        let mut freed = Vec::new();
        for key in keys {
            if Cell::read(engine, &part, plugin, key).await?.held.is_some_and(|held| matches(&held)) {
                freed.push(Reservation {
                    plugin: plugin.clone(),
                    key: key.clone(),
                    state: None,
                });
            }
        }
        if freed.is_empty()
            || stage(
                engine,
                &part,
                address,
                Effects {
                    reservations: freed,
                    ..Effects::default()
                },
                seen,
            )
            .await?
        {
            return Ok(());
        }
    }
    Err(busy())
}

fn busy() -> Refusal {
    Refusal::new(ErrorCode::Overloaded, "too many changes of one part of the global kv at once").after(Duration::from_millis(100))
}

/// Stages effects of a part and waits until they are durable; `false` when something was staged since `seen`.
async fn stage(engine: &Arc<Inner>, part: &Arc<Conversation>, address: &Address, effects: Effects, seen: u64) -> Result<bool, Refusal> {
    stage_as(engine, part, address, effects, seen, None).await
}

/// The same under an id that is remembered.
async fn stage_as(
    engine: &Arc<Inner>,
    part: &Arc<Conversation>,
    address: &Address,
    effects: Effects,
    seen: u64,
    id: Option<CommandId>,
) -> Result<bool, Refusal> {
    let (done, committed) = oneshot::channel::<Result<Outcome, Refusal>>();
    let mut transaction = Transaction {
        effects,
        ..Transaction::default()
    };
    if part.with_state(|state| state.row.is_none()) {
        transaction
            .items
            .push(Item::new(&UserId::from(""), crate::pipeline::created(address, None)));
    }
    let command = id.unwrap_or_else(|| engine.fresh_command());
    let stamp = Stamp {
        command,
        digest: 0,
        remember: id.is_some(),
        at: engine.clock.now(),
    };
    let reply = Box::new(move |outcome| drop(done.send(outcome)));
    let staged = part
        .stage_if(engine, transaction, stamp, Some(reply), |state| state.last_ticket == seen)
        .map_err(|(refusal, _)| refusal)?;
    if staged {
        committed.await.map_err(|_| unavailable())??;
    }
    Ok(staged)
}

/// Waits until everything staged in the part is durable.
async fn durable(part: &Arc<Conversation>) -> Result<(), Refusal> {
    let (done, committed) = oneshot::channel::<Result<Outcome, Refusal>>();
    let nothing = Outcome::nothing(part.id, 0);
    part.answer(Box::new(move |answer| drop(done.send(answer))), Ok(nothing));
    committed.await.map_err(|_| unavailable())?.map(drop)
}

/// Decides about a pending reservation of somebody else: `true` when it is free now.
async fn settle(engine: &Arc<Inner>, held: &ReservationState) -> Result<bool, Refusal> {
    let holder = engine.warmed_id(held.conversation).await?;
    for _ in 0..LOOKS_MAX {
        let (seen, known) = holder.with_state(|state| (state.last_ticket, state.commands.get(held.holder)));
        let staged = match known {
            Seen::Yes(_) => true,
            // A command that was not asked to be remembered is found in the store by its entry.
            Seen::No | Seen::Maybe => engine.store.command(held.conversation, held.holder).await?.is_some(),
        };
        if staged {
            return Ok(false);
        }
        let item = Item::new(&UserId::from(""), Event::Void(held.holder));
        let (done, committed) = oneshot::channel::<Result<Outcome, Refusal>>();
        let stamp = Stamp {
            command: engine.fresh_command(),
            digest: 0,
            remember: false,
            at: engine.clock.now(),
        };
        let reply = Box::new(move |outcome| drop(done.send(outcome)));
        let voided = holder.stage_if(engine, Transaction::of(item), stamp, Some(reply), |state| state.last_ticket == seen);
        if voided.map_err(|(refusal, _)| refusal)? {
            committed.await.map_err(|_| unavailable())??;
            return Ok(true);
        }
    }
    Err(busy())
}

/// What stands at one key.
struct Cell {
    held: Option<ReservationState>,
    value: Option<Value>,
}

/// What was set, if it has not ended.
struct Value {
    bytes: Vec<u8>,
    expires_at: Option<Millis>,
}

impl Value {
    fn alive(engine: &Inner, bytes: Vec<u8>, expires_at: Option<Millis>) -> Option<Value> {
        let is_alive = expires_at.is_none_or(|expires_at| expires_at > engine.clock.now());
        is_alive.then_some(Value { bytes, expires_at })
    }
}

impl Cell {
    /// With everything staged.
    async fn read(engine: &Inner, part: &Conversation, plugin: &PluginId, key: &str) -> Result<Cell, Refusal> {
        let (held, change) = part.with_state(|state| {
            (
                state.staged_reservation(plugin, key).map(|held| held.cloned()),
                state.staged_kv(plugin, key).cloned(),
            )
        });
        let held = match held {
            Some(held) => held,
            None => engine.store.reservation(part.id, plugin, key).await?,
        };
        let value = match change {
            Some(change) => change.value.and_then(|bytes| Value::alive(engine, bytes, change.expires_at)),
            None => Cell::stored_value(engine, part, plugin, key).await?,
        };
        Ok(Cell { held, value })
    }

    /// What the store says.
    async fn committed(engine: &Inner, part: &Conversation, plugin: &PluginId, key: &str) -> Result<Cell, Refusal> {
        let held = engine.store.reservation(part.id, plugin, key).await?;
        Ok(Cell {
            held,
            value: Cell::stored_value(engine, part, plugin, key).await?,
        })
    }

    async fn stored_value(engine: &Inner, part: &Conversation, plugin: &PluginId, key: &str) -> Result<Option<Value>, Refusal> {
        let row = engine.store.kv_get(part.id, plugin, key).await?;
        Ok(row.and_then(|row| Value::alive(engine, row.value, row.expires_at)))
    }
}
