//! Where a conversation's key comes from.

use minicbor::{Decode, Encode};

use crate::{CommandId, ConversationId, ConversationKind, PluginId, UserId};

/// What a conversation's key is a hash of. Stored in its first entry and compared, so a collision is noticed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Address {
    /// Two users, in the order of [`Address::direct`].
    #[n(0)]
    Direct(#[n(0)] UserId, #[n(1)] UserId),
    /// Made by a command: its creator and the command's id.
    #[n(1)]
    Group(#[n(0)] UserId, #[n(1)] CommandId),
    /// `owner/type:id`, for example `booking-requests/booking:42`. Only the owner (a plugin or dialect), an admin or a service token creates one.
    #[n(2)]
    Context(#[n(0)] PluginId, #[n(1)] String, #[n(2)] String),
    /// One log that every user reads.
    #[n(3)]
    Broadcast(#[n(0)] String),
    /// The log of what only this user sees.
    #[n(4)]
    Personal(#[n(0)] UserId),
    /// Where a plugin's `http` handlers and plugin-wide timers commit.
    #[n(5)]
    Plugin(#[n(0)] PluginId),
    /// One of the parts of a plugin's global kv.
    #[n(6)]
    Kv(#[n(0)] PluginId, #[n(1)] u8),
    /// A conversation that exists already, by its key. Only as the target of an outgoing item; no conversation is created under it.
    #[n(7)]
    Existing(#[n(0)] ConversationId),
}

impl Address {
    /// The address of the direct conversation of two users; the order of the arguments does not matter.
    pub fn direct(a: &UserId, b: &UserId) -> Address {
        let (first, second) = if a <= b { (a, b) } else { (b, a) };
        Address::Direct(first.clone(), second.clone())
    }

    /// The part of `plugin`'s global kv in which `key` lives.
    pub fn kv(plugin: &PluginId, key: &str) -> Address {
        let hash = blake3::hash(key.as_bytes());
        Address::Kv(plugin.clone(), hash.as_bytes()[0])
    }

    /// The kind of conversation that stands at this address.
    pub fn kind(&self) -> ConversationKind {
        match self {
            Address::Direct(..) => ConversationKind::Direct,
            Address::Group(..) => ConversationKind::Group,
            Address::Context(..) | Address::Existing(_) => ConversationKind::Context,
            Address::Broadcast(..) => ConversationKind::Broadcast,
            Address::Personal(..) | Address::Plugin(..) | Address::Kv(..) => ConversationKind::Personal,
        }
    }

    /// The other user of a direct conversation, seen from `user`.
    pub fn other(&self, user: &UserId) -> Option<&UserId> {
        match self {
            Address::Direct(a, b) if a == user => Some(b),
            Address::Direct(a, b) if b == user => Some(a),
            _ => None,
        }
    }
}

/// Derives conversation keys with the secret of this installation.
#[derive(Clone)]
pub struct KeyRing {
    secret: [u8; 32],
}

impl KeyRing {
    /// Keys under `secret`, which is chosen once per installation and never changes.
    pub fn new(secret: [u8; 32]) -> KeyRing {
        KeyRing { secret }
    }

    /// The key of `address` before any probing.
    pub fn key(&self, address: &Address) -> ConversationId {
        let bytes = minicbor::to_vec(address).expect("writing to memory does not fail");
        let hash = blake3::keyed_hash(&self.secret, &bytes);
        let key = u64::from_be_bytes(hash.as_bytes()[..8].try_into().expect("8 of 32 bytes"));
        ConversationId(key.max(1 << 16)) // key 0 never occurs
    }
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyRing(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_direct_conversation_has_one_key_whoever_asks() {
        let keys = KeyRing::new([1; 32]);
        let (a, b) = (UserId::from("ann"), UserId::from("bob"));
        assert_eq!(keys.key(&Address::direct(&a, &b)), keys.key(&Address::direct(&b, &a)));
        assert_ne!(keys.key(&Address::direct(&a, &b)), KeyRing::new([2; 32]).key(&Address::direct(&a, &b)));
    }
}
