//! The JSON that clients see, the same on every transport: camelCase, `_id` and `id`, times in RFC 3339 UTC with milliseconds.
//!
//! Resources borrow from rows and write straight to bytes. What differs by viewer (`deletedFor`, `unreadCounts` …) holds the
//! viewer's own entry only. What is pushed to many at once leaves out `readBy` and `deletedFor` unless they are known empty.

use std::{cell::RefCell, collections::BTreeMap, fmt};

use haggle_engine::Published;
use haggle_model::{
    Address, CommandId, ConversationCreated, ConversationId, ConversationKind, ConversationUpdate, Decider, Event, MessageId, Millis, PluginId,
    Profile, UserId,
};
use haggle_store::{EventRow, InboxRow, MemberRow, MessageRow, MessageView, NotificationRow, PersonalRow, UserRow};
use jiff::{Timestamp, fmt::temporal::DateTimePrinter};
use serde::{
    Serialize, Serializer,
    ser::{SerializeMap, SerializeSeq},
};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::json;

/// Characters of a message that stand in `lastMessage` and in a notification's preview.
pub const PREVIEW_CHARS_MAX: usize = 200;

/// A time as clients see it: RFC 3339, UTC, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub Millis);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_text(|text| f.write_str(text))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_text(|text| serializer.serialize_str(text))
    }
}

impl Time {
    /// Messages name one moment several times, and those of one commit nearly the same: the thread keeps the last text.
    fn with_text<T>(self, with: impl FnOnce(&str) -> T) -> T {
        thread_local! {
            static LAST: RefCell<(Millis, String)> = RefCell::new((0, text(0)));
        }
        LAST.with_borrow_mut(|(at, last)| {
            if *at != self.0 {
                (*at, *last) = (self.0, text(self.0));
            }
            with(last)
        })
    }
}

fn text(at: Millis) -> String {
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(3));
    let at = Timestamp::from_millisecond(at).unwrap_or(if at < 0 { Timestamp::MIN } else { Timestamp::MAX });
    let mut text = String::with_capacity(24);
    PRINTER.print_timestamp(&at, &mut text).expect("writing to memory does not fail");
    text
}

/// A message's or conversation's id as its 24 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hex(haggle_model::Hex<24>);

impl From<ConversationId> for Hex {
    fn from(id: ConversationId) -> Hex {
        Hex(id.to_hex())
    }
}

impl From<MessageId> for Hex {
    fn from(id: MessageId) -> Hex {
        Hex(id.to_hex())
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

/// A user id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User<'a>(pub &'a UserId);

impl Serialize for User<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

/// Stored JSON text, written as it is. What is no JSON (it never should be) becomes `null`.
#[derive(Clone, Copy, Debug)]
pub struct Raw<'a>(pub &'a str);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serde_json::from_str::<&RawValue>(self.0) {
            Ok(raw) => raw.serialize(serializer),
            Err(_) => serializer.serialize_unit(),
        }
    }
}

/// `{"user": time}`.
#[derive(Clone, Copy, Debug)]
pub struct Times<'a>(pub &'a [(UserId, Millis)]);

impl Serialize for Times<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(user, at)| (user.as_str(), Time(*at))))
    }
}

/// The ids of users.
#[derive(Clone, Copy, Debug)]
pub struct Users<'a>(pub &'a [UserId]);

impl Serialize for Users<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(UserId::as_str))
    }
}

/// Who reacted.
#[derive(Clone, Copy, Debug)]
pub struct Reactors<'a>(&'a [(UserId, String)]);

impl Serialize for Reactors<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|(user, _)| user.as_str()))
    }
}

/// `{"user": "emoji"}`.
#[derive(Clone, Copy, Debug)]
pub struct ReactionTypes<'a>(&'a [(UserId, String)]);

impl Serialize for ReactionTypes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (user, emoji) in self.0 {
            map.serialize_entry(user.as_str(), emoji)?;
        }
        map.end()
    }
}

/// The plugin versions that decided a message.
#[derive(Clone, Copy, Debug)]
pub struct Deciders<'a>(&'a [Decider]);

impl Serialize for Deciders<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for decider in self.0 {
            list.serialize_element(&DeciderResource {
                plugin: decider.plugin.as_str(),
                version: &decider.version,
                digest: Digest(decider.digest),
            })?;
        }
        list.end()
    }
}

/// A plugin version that decided a message.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Decider)]
pub struct DeciderResource<'a> {
    /// The plugin's id.
    plugin: &'a str,
    /// Its version.
    version: &'a str,
    /// The first 16 hex digits of the SHA-256 of its code.
    #[schema(value_type = String, example = "9f86d081884c7d65")]
    digest: Digest,
}

#[derive(Clone, Copy, Debug)]
struct Digest([u8; 8]);

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(haggle_model::Hex::<16>::of(&self.0).as_str())
    }
}

/// What a message's row does not say; `None` leaves the field out.
#[derive(Clone, Copy, Debug, Default)]
pub struct MessageContext<'a> {
    /// Who has read it, and when.
    pub read_by: Option<&'a [(UserId, Millis)]>,
    /// The viewer, if the viewer has deleted it for itself.
    pub deleted_for: Option<&'a [UserId]>,
}

impl MessageContext<'_> {
    /// Of a message just created: nobody has read or deleted it.
    pub const FRESH: MessageContext<'static> = MessageContext {
        read_by: Some(&[]),
        deleted_for: Some(&[]),
    };
}

/// A message in its present state.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Message)]
pub struct MessageResource<'a> {
    /// The message's id.
    #[serde(rename = "_id")]
    #[schema(value_type = String, example = "0123456789abcdef00000007")]
    _id: Hex,
    /// The same as `_id`.
    #[schema(value_type = String)]
    id: Hex,
    /// Where it was written.
    #[schema(value_type = String)]
    conversation_id: Hex,
    /// Who wrote it; `plugin:<id>` for a plugin.
    sender_id: &'a str,
    /// The text, byte-exact as sent: whoever displays it escapes it. Empty when the message is deleted.
    content: &'a str,
    /// `text`, `image`, `file`, `video`, `audio`, `location`, `system`, or a kind that a plugin claims.
    #[serde(rename = "type")]
    kind: &'a str,
    /// What belongs to the type: `fileUrl`, `latitude`, `servicePackageId` …
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    metadata: Option<Raw<'a>>,
    /// Who has read it, and when.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    read_by: Option<Times<'a>>,
    /// Users who reacted.
    #[schema(value_type = Vec<String>)]
    reactions: Reactors<'a>,
    /// What each of them reacted with.
    #[schema(value_type = BTreeMap<String, String>)]
    reaction_types: ReactionTypes<'a>,
    /// The message this one answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    reply_to_id: Option<Hex>,
    /// When its text last changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    edited_at: Option<Time>,
    /// When it was deleted for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    deleted_at: Option<Time>,
    /// The caller, if it has deleted the message for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    deleted_for: Option<Users<'a>>,
    /// Repeats another message.
    is_forwarded: bool,
    /// Which one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    forwarded_from_id: Option<Hex>,
    /// When it was created.
    #[schema(value_type = String, format = DateTime)]
    created_at: Time,
    /// When it last changed in any way.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Time,
    /// Its place in the conversation: the seq of its creation.
    seq: u32,
    /// Countable messages of the conversation up to it.
    n: u32,
    /// Seq of the last change that this state includes; ignore a state with a lower one.
    rev: u32,
    /// The id of the command that created it; plugins know it by this.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    reference: Option<Display<CommandId>>,
    /// The sender's own id of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_message_id: Option<&'a str>,
    /// The plugin versions that decided it.
    #[schema(value_type = Vec<DeciderResource<'static>>)]
    decided_by: Deciders<'a>,
}

impl<'a> MessageResource<'a> {
    /// The message for a viewer.
    pub fn new(view: MessageView<'a>, context: MessageContext<'a>) -> MessageResource<'a> {
        let (id, content) = (Hex::from(view.id), view.content);
        MessageResource {
            _id: id,
            id,
            conversation_id: view.id.conversation.into(),
            sender_id: view.sender.as_str(),
            content: &content.text,
            kind: &content.kind,
            metadata: content.metadata.as_deref().map(Raw),
            read_by: context.read_by.map(Times),
            reactions: Reactors(view.reactions),
            reaction_types: ReactionTypes(view.reactions),
            reply_to_id: content.reply_to.map(Hex::from),
            edited_at: view.edited_at.map(Time),
            deleted_at: view.deleted_at.map(Time),
            deleted_for: context.deleted_for.map(Users),
            is_forwarded: content.forwarded_from.is_some(),
            forwarded_from_id: content.forwarded_from.map(Hex::from),
            created_at: Time(view.created_at),
            updated_at: Time(view.updated_at),
            seq: view.id.seq,
            n: view.n,
            rev: view.rev,
            reference: view.command.map(Display),
            client_message_id: content.client_id.as_deref(),
            decided_by: Deciders(&content.decided_by),
        }
    }
}

/// Anything with a text form, as a JSON string.
#[derive(Clone, Copy, Debug)]
pub struct Display<T>(pub T);

impl<T: fmt::Display> Serialize for Display<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// What a context conversation is about.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Context)]
pub struct ContextResource<'a> {
    /// The plugin or dialect it belongs to.
    owner: &'a str,
    /// The kind of thing: `booking`.
    #[serde(rename = "type")]
    kind: &'a str,
    /// Which one: `42`.
    id: &'a str,
}

fn context_of(address: &Address) -> Option<ContextResource<'_>> {
    match address {
        Address::Context(owner, kind, id) => Some(ContextResource {
            owner: owner.as_str(),
            kind,
            id,
        }),
        _ => None,
    }
}

/// An empty text stands for "none": a field that was cleared.
fn filled(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

/// What a conversation's row does not say.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConversationContext<'a> {
    /// Who asks.
    pub viewer: Option<&'a UserId>,
    /// The first participants, present ones only.
    pub participants: &'a [UserId],
    /// The text of the newest countable message, whole.
    pub last_message: Option<&'a str>,
}

/// A conversation as one user sees it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Conversation)]
pub struct ConversationResource<'a> {
    /// The conversation's id.
    #[serde(rename = "_id")]
    #[schema(value_type = String, example = "0123456789abcdef00000000")]
    _id: Hex,
    /// The same as `_id`.
    #[schema(value_type = String)]
    id: Hex,
    /// Present participants, the first 256 of them; `participantCount` says how many there are.
    #[schema(value_type = Vec<String>)]
    participants: Users<'a>,
    /// How many participants are in it now.
    participant_count: u32,
    /// `direct`, `group`, `context` or `broadcast`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// Name of a group or title of a context.
    #[serde(skip_serializing_if = "Option::is_none")]
    group_name: Option<&'a str>,
    /// Its picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    group_avatar: Option<&'a str>,
    /// Who made the group.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    group_admin: Option<User<'a>>,
    /// What a context conversation is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<ContextResource<'a>>,
    /// What its owner keeps for clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    state: Option<Raw<'a>>,
    /// Text of the newest message, at most 200 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_message: Option<&'a str>,
    /// When that message was written; of an empty conversation its creation.
    #[schema(value_type = String, format = DateTime)]
    last_message_at: Time,
    /// The caller's unread messages: the caller's own entry only.
    #[schema(value_type = BTreeMap<String, u32>)]
    unread_counts: Own<'a, u32>,
    /// `false`: no more messages by users.
    is_active: bool,
    /// When the caller archived it.
    #[schema(value_type = BTreeMap<String, String>)]
    archived_by: Own<'a, Time>,
    /// When the caller deleted it; a later message has brought it back.
    #[schema(value_type = BTreeMap<String, String>)]
    deleted_by: Own<'a, Time>,
    /// Until when the caller wants no notifications from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    muted_until: Option<Time>,
    /// The caller's role: `member` or `admin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    /// The caller has read up to this seq.
    #[serde(skip_serializing_if = "Option::is_none")]
    read_seq: Option<u32>,
    /// The caller's devices have got everything up to this seq.
    #[serde(skip_serializing_if = "Option::is_none")]
    delivered_seq: Option<u32>,
    /// When it was created.
    #[schema(value_type = String, format = DateTime)]
    created_at: Time,
    /// When something last happened in it.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Time,
    /// Seq of its last event.
    seq: u32,
    /// Countable messages so far.
    n: u32,
}

/// The viewer's own entry of a map by users, or nothing.
#[derive(Clone, Copy, Debug)]
pub struct Own<'a, T>(Option<(&'a UserId, T)>);

impl<T: Serialize> Serialize for Own<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(user, value)| (user.as_str(), value)))
    }
}

impl<'a> ConversationResource<'a> {
    /// The conversation for a viewer who is or was in it.
    pub fn new(row: &'a InboxRow, context: ConversationContext<'a>) -> ConversationResource<'a> {
        Self::of_parts(&row.conversation, Some((&row.member, row.unread)), &row.personal, context)
    }

    /// The conversation for an administrator who is not in it: nothing of the caller's own is known.
    pub fn for_admin(row: &'a haggle_store::ConversationRow, context: ConversationContext<'a>) -> ConversationResource<'a> {
        Self::of_parts(row, None, &PersonalRow::default(), context)
    }

    fn of_parts(
        row: &'a haggle_store::ConversationRow,
        own: Option<(&MemberRow, u32)>,
        personal: &PersonalRow,
        context: ConversationContext<'a>,
    ) -> ConversationResource<'a> {
        let viewer = own.and(context.viewer);
        let is_group = row.kind() == ConversationKind::Group;
        ConversationResource {
            _id: row.id.into(),
            id: row.id.into(),
            participants: Users(context.participants),
            participant_count: row.participants,
            kind: row.kind().as_str(),
            group_name: filled(row.name.as_deref()),
            group_avatar: filled(row.avatar.as_deref()),
            group_admin: row.creator.as_ref().filter(|_| is_group).map(User),
            context: context_of(&row.address),
            state: filled(row.state.as_deref()).map(Raw),
            last_message: context.last_message.map(preview),
            last_message_at: Time(row.last_message_at),
            unread_counts: Own(viewer.zip(own.map(|(_, unread)| unread))),
            is_active: !row.closed,
            archived_by: Own(viewer.zip(personal.archived_at.map(Time))),
            deleted_by: Own(viewer.zip(personal.hidden_at.map(Time))),
            muted_until: personal.muted_until.map(Time),
            role: own.map(|(member, _)| member.role.as_str()),
            read_seq: own.map(|(member, _)| member.mark.read_seq),
            delivered_seq: own.map(|(member, _)| member.mark.delivered_seq),
            created_at: Time(row.created_at),
            updated_at: Time(row.updated_at),
            seq: row.head,
            n: row.head_n,
        }
    }
}

/// A user's place in a conversation.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Participant)]
pub struct ParticipantResource<'a> {
    /// Who.
    #[schema(value_type = String)]
    user_id: User<'a>,
    /// `member` or `admin`.
    role: &'static str,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    joined_at: Time,
    /// Has got everything up to this seq; known in conversations of at most 256 participants.
    #[serde(skip_serializing_if = "Option::is_none")]
    delivered_seq: Option<u32>,
    /// Has read up to this seq; known in conversations of at most 256 participants.
    #[serde(skip_serializing_if = "Option::is_none")]
    read_seq: Option<u32>,
}

impl<'a> ParticipantResource<'a> {
    /// The participant; its marks only where everybody may see them.
    pub fn new(row: &'a MemberRow, marks_are_shared: bool) -> ParticipantResource<'a> {
        ParticipantResource {
            user_id: User(&row.user),
            role: row.role.as_str(),
            joined_at: Time(row.joined_at),
            delivered_seq: marks_are_shared.then_some(row.mark.delivered_seq),
            read_seq: marks_are_shared.then_some(row.mark.read_seq),
        }
    }
}

/// Whether a user has a connection, and when it was last seen.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Presence)]
pub struct PresenceResource<'a> {
    /// Who.
    #[schema(value_type = String)]
    pub user_id: User<'a>,
    /// Has a connection.
    pub is_online: bool,
    /// When last seen, if ever.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_seen: Option<Time>,
}

/// A user. Of others: name, avatar, presence and public attributes only.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = User)]
pub struct UserResource<'a> {
    /// The user's id, as tokens name it.
    #[serde(rename = "_id")]
    #[schema(value_type = String)]
    _id: User<'a>,
    /// The same as `_id`.
    #[schema(value_type = String)]
    id: User<'a>,
    /// The display name.
    name: Option<&'a str>,
    /// The picture.
    avatar: Option<&'a str>,
    /// Roles for display; what a request may do, its token says.
    #[serde(skip_serializing_if = "Option::is_none")]
    roles: Option<&'a [String]>,
    /// `servicePackages`, `timeZone` …
    #[schema(value_type = Object)]
    attributes: AttributesView<'a>,
    /// The user's own settings; only the user and administrators see them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    preferences: Option<Raw<'a>>,
    /// Has a connection now.
    is_online: bool,
    /// When last seen, if ever.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_seen: Option<Time>,
    /// First seen.
    #[schema(value_type = String, format = DateTime)]
    created_at: Time,
    /// Last change of the profile.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Time,
}

/// A user's attributes: all of them, or those whose names are public.
#[derive(Clone, Copy, Debug)]
pub struct AttributesView<'a> {
    text: Option<&'a str>,
    only: Option<&'a [String]>,
}

impl Serialize for AttributesView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let parsed: BTreeMap<String, &RawValue> = self.text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let shown = |name: &String| self.only.is_none_or(|only| only.contains(name));
        serializer.collect_map(parsed.iter().filter(|(name, _)| shown(name)))
    }
}

impl<'a> UserResource<'a> {
    /// Everything: for the user itself and for administrators.
    pub fn whole(row: &'a UserRow, presence: (bool, Option<Millis>)) -> UserResource<'a> {
        let profile: &Profile = &row.profile;
        UserResource {
            _id: User(&row.id),
            id: User(&row.id),
            name: filled(profile.name.as_deref()),
            avatar: filled(profile.avatar.as_deref()),
            roles: Some(&profile.roles),
            attributes: AttributesView {
                text: profile.attributes.as_deref(),
                only: None,
            },
            preferences: Some(Raw(filled(profile.preferences.as_deref()).unwrap_or("{}"))),
            is_online: presence.0,
            last_seen: presence.1.map(Time),
            created_at: Time(row.created_at),
            updated_at: Time(row.updated_at),
        }
    }

    /// What others may see.
    pub fn public(row: &'a UserRow, presence: (bool, Option<Millis>), public_attributes: &'a [String]) -> UserResource<'a> {
        let whole = UserResource::whole(row, presence);
        UserResource {
            roles: None,
            preferences: None,
            attributes: AttributesView {
                only: Some(public_attributes),
                ..whole.attributes
            },
            ..whole
        }
    }
}

/// A stored notification.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Notification)]
pub struct NotificationResource<'a> {
    /// The notification's id.
    #[serde(rename = "_id")]
    #[schema(value_type = String)]
    _id: Hex,
    /// The same as `_id`.
    #[schema(value_type = String)]
    id: Hex,
    /// Whose.
    #[schema(value_type = String)]
    user_id: User<'a>,
    /// A line for people.
    title: &'a str,
    /// The text; where the notification has none, the present text of the message it is about, at most 200 characters.
    message: &'a str,
    /// `MESSAGE_RECEIVED`, `CHAT_CREATED` …
    #[serde(rename = "type")]
    topic: &'a str,
    /// Whatever its maker added.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    data: Option<Raw<'a>>,
    /// The message it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    message_id: Option<Hex>,
    /// The conversation of that message.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    conversation_id: Option<Hex>,
    /// The plugin that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    plugin: Option<&'a str>,
    /// Read by its user.
    read: bool,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: Time,
    /// When it was read or replaced.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Time,
    /// Its place in the user's own stream.
    seq: u32,
}

impl<'a> NotificationResource<'a> {
    /// The notification; `about` is the present text of the message it is about, if the user may still see that.
    pub fn new(user: &'a UserId, row: &'a NotificationRow, about: Option<&'a str>) -> NotificationResource<'a> {
        let said = &row.notification;
        NotificationResource {
            _id: row.id.into(),
            id: row.id.into(),
            user_id: User(user),
            title: &said.title,
            message: if said.body.is_empty() {
                about.map(preview).unwrap_or_default()
            } else {
                &said.body
            },
            topic: &said.topic,
            data: said.data.as_deref().map(Raw),
            message_id: said.message.map(Hex::from),
            conversation_id: said.message.map(|id| id.conversation.into()),
            plugin: said.plugin.as_ref().map(PluginId::as_str),
            read: row.read,
            created_at: Time(row.created_at),
            updated_at: Time(row.updated_at),
            seq: row.id.seq,
        }
    }
}

/// One event of a conversation's log.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Event)]
pub struct EventResource<'a> {
    /// Its place, 1, 2, 3 … without gaps.
    pub seq: u32,
    /// Countable messages up to it.
    pub n: u32,
    /// `message.created`, `participant.joined`, `x.…`.
    pub name: &'a str,
    /// When it happened.
    #[schema(value_type = String, format = DateTime)]
    pub at: Time,
    /// Who did it; absent for the server itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub actor: Option<User<'a>>,
    /// What it is about: the message in its present state, or what the event says.
    #[schema(value_type = Object)]
    pub data: EventData<'a>,
}

impl<'a> EventResource<'a> {
    /// The event.
    pub fn new(view: EventView<'a>) -> EventResource<'a> {
        EventResource {
            seq: view.seq,
            n: view.n,
            name: view.event.name(),
            at: Time(view.at),
            actor: view.actor.map(User),
            data: EventData(view),
        }
    }
}

/// A committed event, from wherever it comes: the hub or the log.
#[derive(Clone, Copy, Debug)]
pub struct EventView<'a> {
    /// In whose log it stands.
    pub conversation: ConversationId,
    /// Its place.
    pub seq: u32,
    /// Countable messages up to it.
    pub n: u32,
    /// When it happened.
    pub at: Millis,
    /// Who did it.
    pub actor: Option<&'a UserId>,
    /// What happened.
    pub event: &'a Event,
    /// For events about a message: its state to show.
    pub message: Option<MessageView<'a>>,
}

impl<'a> EventView<'a> {
    /// An event read from the log.
    pub fn of_row(conversation: ConversationId, row: &'a EventRow) -> EventView<'a> {
        EventView {
            conversation,
            seq: row.seq,
            n: row.n,
            at: row.at,
            actor: row.actor.as_ref(),
            event: &row.event,
            message: row.message.as_ref().map(MessageRow::view),
        }
    }
}

impl<'a> From<&'a Published> for EventView<'a> {
    fn from(published: &'a Published) -> EventView<'a> {
        let entry = &*published.entry;
        EventView {
            conversation: entry.conversation,
            seq: entry.seq,
            n: entry.n,
            at: entry.at,
            actor: entry.actor.as_ref(),
            event: &entry.event,
            message: published.message(),
        }
    }
}

/// Writes what an event is about (`d` on the native WebSocket, `data` in REST) as one JSON value to the end of `out`.
///
/// Events about a message carry the whole message in the state of the view; `seq` and `n` in it are those of the message's
/// creation, `rev` tells the state. Other events carry what they say, with their own `seq` and `n`; an event of a plugin
/// carries its payload alone.
pub fn write_event_data(view: EventView<'_>, out: &mut Vec<u8>) {
    json::write(out, &EventData(view));
}

/// The same as a value that serializes itself.
#[derive(Clone, Copy, Debug)]
pub struct EventData<'a>(pub EventView<'a>);

impl Serialize for EventData<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let view = self.0;
        if let Some(message) = view.message.filter(|_| view.event.message_seq(view.seq).is_some()) {
            return serialize_message_event(view, message, serializer);
        }
        match view.event {
            Event::Custom { payload, .. } => Raw(payload).serialize(serializer),
            _ => serialize_facts(view, serializer),
        }
    }
}

fn serialize_message_event<S: Serializer>(view: EventView<'_>, message: MessageView<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    let fresh = matches!(view.event, Event::MessageCreated(_)) && message.rev == view.seq;
    let context = if fresh { MessageContext::FRESH } else { MessageContext::default() };
    let resource = MessageResource::new(message, context);
    let reaction = match view.event {
        Event::ReactionAdded { user, emoji, .. } => Some((user, Some(emoji.as_str()))),
        Event::ReactionRemoved { user, .. } => Some((user, None)),
        _ => None,
    };
    let Some((user, emoji)) = reaction else {
        return resource.serialize(serializer);
    };
    Reacted {
        message: resource,
        reaction: ReactionResource { user_id: User(user), emoji },
    }
    .serialize(serializer)
}

#[derive(Serialize)]
struct Reacted<'a> {
    #[serde(flatten)]
    message: MessageResource<'a>,
    reaction: ReactionResource<'a>,
}

/// What changed about a message's reactions.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReactionResource<'a> {
    user_id: User<'a>,
    emoji: Option<&'a str>,
}

/// Events that are not about a message are rare: they are written field by field.
fn serialize_facts<S: Serializer>(view: EventView<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    write_facts(view, &mut map)?;
    map.serialize_entry("seq", &view.seq)?;
    map.serialize_entry("n", &view.n)?;
    map.end()
}

fn write_facts<M: SerializeMap>(view: EventView<'_>, map: &mut M) -> Result<(), M::Error> {
    let here = Hex::from(view.conversation);
    if !is_personal(view.event) {
        map.serialize_entry("conversationId", &here)?;
    }
    match view.event {
        Event::ConversationCreated(created) => write_created(view, created, map),
        Event::ConversationUpdated(update) => write_update(update, map),
        Event::ConversationClosed(reason) => map.serialize_entry("reason", reason),
        Event::ParticipantJoined { user, role } | Event::ParticipantUpdated { user, role } => {
            map.serialize_entry("userId", &User(user))?;
            map.serialize_entry("role", role.as_str())
        }
        Event::ParticipantLeft { user } | Event::UserBlocked { by: user } | Event::UserUnblocked { by: user } => {
            map.serialize_entry("userId", &User(user))
        }
        // A message event without its row: the bare ids.
        event if event.message_seq(view.seq).is_some() => map.serialize_entry(
            "messageId",
            &Hex::from(view.conversation.message(event.message_seq(view.seq).unwrap_or(view.seq))),
        ),
        event => write_personal(view, event, map),
    }
}

fn is_personal(event: &Event) -> bool {
    matches!(
        event,
        Event::MembershipStarted(_)
            | Event::MembershipEnded(_)
            | Event::ConversationArchived { .. }
            | Event::ConversationHidden { .. }
            | Event::MessageHidden(_)
            | Event::ConversationMuted { .. }
            | Event::ProfileUpdated(_)
            | Event::Notified(_)
            | Event::NotificationsRead(_)
            | Event::AllNotificationsRead(_)
            | Event::BlockListed { .. }
    )
}

fn write_created<M: SerializeMap>(view: EventView<'_>, created: &ConversationCreated, map: &mut M) -> Result<(), M::Error> {
    map.serialize_entry("_id", &Hex::from(view.conversation))?;
    map.serialize_entry("id", &Hex::from(view.conversation))?;
    map.serialize_entry("type", created.address.kind().as_str())?;
    if let Some(context) = context_of(&created.address) {
        map.serialize_entry("context", &context)?;
    }
    if let Some(creator) = created.creator.as_ref().filter(|_| created.address.kind() == ConversationKind::Group) {
        map.serialize_entry("groupAdmin", &User(creator))?;
    }
    let update = ConversationUpdate {
        name: created.name.clone(),
        avatar: created.avatar.clone(),
        state: created.state.clone(),
    };
    write_update(&update, map)?;
    map.serialize_entry("createdAt", &Time(view.at))
}

fn write_update<M: SerializeMap>(update: &ConversationUpdate, map: &mut M) -> Result<(), M::Error> {
    if let Some(name) = &update.name {
        map.serialize_entry("groupName", &filled(Some(name)))?;
    }
    if let Some(avatar) = &update.avatar {
        map.serialize_entry("groupAvatar", &filled(Some(avatar)))?;
    }
    if let Some(state) = &update.state {
        map.serialize_entry("state", &filled(Some(state)).map(Raw))?;
    }
    Ok(())
}

fn write_personal<M: SerializeMap>(view: EventView<'_>, event: &Event, map: &mut M) -> Result<(), M::Error> {
    match event {
        Event::MembershipStarted(id) | Event::MembershipEnded(id) => map.serialize_entry("conversationId", &Hex::from(*id)),
        Event::ConversationArchived { conversation, archived } => {
            map.serialize_entry("conversationId", &Hex::from(*conversation))?;
            map.serialize_entry("archived", archived)
        }
        Event::ConversationHidden { conversation, to_seq } => {
            map.serialize_entry("conversationId", &Hex::from(*conversation))?;
            map.serialize_entry("toSeq", to_seq)
        }
        Event::MessageHidden(id) => {
            map.serialize_entry("conversationId", &Hex::from(id.conversation))?;
            map.serialize_entry("messageId", &Hex::from(*id))
        }
        Event::ConversationMuted { conversation, until } => {
            map.serialize_entry("conversationId", &Hex::from(*conversation))?;
            map.serialize_entry("until", &until.map(Time))
        }
        Event::ProfileUpdated(profile) => write_profile(profile, map),
        Event::Notified(_) => write_notified(view, event, map),
        Event::NotificationsRead(seqs) => {
            let ids: Vec<Hex> = seqs.iter().map(|seq| view.conversation.message(*seq).into()).collect();
            map.serialize_entry("notificationIds", &ids)
        }
        Event::AllNotificationsRead(to) => map.serialize_entry("toSeq", to),
        Event::BlockListed { user, blocked } => {
            map.serialize_entry("userId", &User(user))?;
            map.serialize_entry("blocked", blocked)
        }
        _ => Ok(()),
    }
}

fn write_profile<M: SerializeMap>(profile: &Profile, map: &mut M) -> Result<(), M::Error> {
    map.serialize_entry("name", &filled(profile.name.as_deref()))?;
    map.serialize_entry("avatar", &filled(profile.avatar.as_deref()))?;
    map.serialize_entry("roles", &profile.roles)?;
    map.serialize_entry("attributes", &Raw(filled(profile.attributes.as_deref()).unwrap_or("{}")))?;
    map.serialize_entry("preferences", &Raw(filled(profile.preferences.as_deref()).unwrap_or("{}")))
}

fn write_notified<M: SerializeMap>(view: EventView<'_>, event: &Event, map: &mut M) -> Result<(), M::Error> {
    let Event::Notified(said) = event else { return Ok(()) };
    let id = Hex::from(view.conversation.message(view.seq));
    map.serialize_entry("_id", &id)?;
    map.serialize_entry("id", &id)?;
    map.serialize_entry("title", &said.title)?;
    let about = view.message.map(|message| preview(&message.content.text)).unwrap_or_default();
    map.serialize_entry("message", if said.body.is_empty() { about } else { &said.body })?;
    map.serialize_entry("type", &said.topic)?;
    if let Some(data) = &said.data {
        map.serialize_entry("data", &Raw(data))?;
    }
    if let Some(message) = said.message {
        map.serialize_entry("messageId", &Hex::from(message))?;
        map.serialize_entry("conversationId", &Hex::from(message.conversation))?;
    }
    if let Some(plugin) = &said.plugin {
        map.serialize_entry("plugin", plugin.as_str())?;
    }
    map.serialize_entry("read", &false)?;
    map.serialize_entry("createdAt", &Time(view.at))?;
    map.serialize_entry("updatedAt", &Time(view.at))
}

/// The beginning of a text, at most [`PREVIEW_CHARS_MAX`] characters.
pub fn preview(text: &str) -> &str {
    match text.char_indices().nth(PREVIEW_CHARS_MAX) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}
