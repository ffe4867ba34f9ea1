//! What came in with a command, as one number: the same client id with another number is a misuse.
//!
//! The numbers are kept in the log, so they never change: a new command gets a new word, a new field is put behind the others
//! and only where it is there.

use haggle_model::{ConversationUpdate, UserId};
use twox_hash::XxHash3_64;

use crate::{Command, NewConversation, ProfilePatch};

/// The digest of a command. Of a send, where it goes does not count: its id belongs to the conversation already.
pub(crate) fn digest(command: &Command) -> u64 {
    let mut parts = Parts(Vec::with_capacity(512)); // what most messages need
    parts.command(command);
    XxHash3_64::oneshot(&parts.0)
}

/// Fields one after the other, each with its length before it.
struct Parts(Vec<u8>);

impl Parts {
    fn put(&mut self, bytes: impl AsRef<[u8]>) -> &mut Parts {
        let bytes = bytes.as_ref();
        self.0.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    fn id(&mut self, id: impl ToString) -> &mut Parts {
        self.put(id.to_string())
    }

    fn flag(&mut self, flag: bool) -> &mut Parts {
        self.put([u8::from(flag)])
    }

    fn number(&mut self, number: impl Into<i64>) -> &mut Parts {
        self.put(number.into().to_be_bytes())
    }

    /// Nothing is not the same as an empty text.
    fn text(&mut self, text: Option<&String>) -> &mut Parts {
        self.flag(text.is_some()).put(text.map_or("", String::as_str))
    }

    fn users(&mut self, users: &[UserId]) -> &mut Parts {
        self.number(users.len() as u32);
        users.iter().fold(self, |parts, user| parts.put(user.as_str()))
    }

    fn command(&mut self, command: &Command) {
        match command {
            Command::Send { message, .. } => {
                self.put(&message.kind).put(&message.text).put(message.metadata.as_deref().unwrap_or(""));
                self.put(message.reply_to.map_or([0; 4], |id| id.seq.to_be_bytes()));
                self.put(message.forwarded_from.map(|id| id.to_string()).unwrap_or_default())
            }
            Command::Edit {
                message,
                text,
                metadata,
                if_rev,
            } => self
                .put("edit")
                .id(message)
                .text(text.as_ref())
                .text(metadata.as_ref())
                .number(if_rev.unwrap_or(0)),
            Command::Delete { message, if_rev } => self.put("delete").id(message).number(if_rev.unwrap_or(0)),
            Command::React { message, emoji } => self.put("react").id(message).text(emoji.as_ref()),
            Command::CreateConversation(new) => self.put("create").conversation(new),
            Command::UpdateConversation { conversation, update } => self.put("update").id(conversation).update(update),
            Command::CloseConversation {
                conversation,
                closed,
                reason,
            } => self.put("close").id(conversation).flag(*closed).text(reason.as_ref()),
            Command::AddParticipant { conversation, user, role } => self.put("add").id(conversation).put(user.as_str()).put(role.as_str()),
            Command::RemoveParticipant { conversation, user } => self.put("remove").id(conversation).put(user.as_str()),
            Command::SetRole { conversation, user, role } => self.put("role").id(conversation).put(user.as_str()).put(role.as_str()),
            Command::Block { user, blocked } => self.put("block").put(user.as_str()).flag(*blocked),
            Command::Call { name, conversation, payload } => {
                let conversation = conversation.map(|id| id.to_string()).unwrap_or_default();
                self.put("call").put(name).put(conversation).put(payload)
            }
            Command::Archive { conversation, archived } => self.put("archive").id(conversation).flag(*archived),
            Command::Hide { conversation } => self.put("hide").id(conversation),
            Command::HideMessage { message } => self.put("hide-message").id(message),
            Command::Mute { conversation, until } => self.put("mute").id(conversation).number(until.unwrap_or(0)),
            Command::UpdateProfile { user, patch } => self.put("profile").put(user.as_str()).profile(patch),
            Command::ReadNotification { seq } => self.put("read-notification").number(*seq),
            Command::ReadAllNotifications => self.put("read-notifications"),
        };
    }

    fn conversation(&mut self, new: &NewConversation) -> &mut Parts {
        match new {
            NewConversation::Direct { with } => self.put("direct").put(with.as_str()),
            NewConversation::Group { participants, name, avatar } => self.put("group").users(participants).text(name.as_ref()).text(avatar.as_ref()),
            NewConversation::Context {
                owner,
                context_type,
                context_id,
                participants,
                name,
                state,
            } => {
                self.put("context").put(owner).put(context_type).put(context_id);
                self.users(participants).text(name.as_ref()).text(state.as_ref())
            }
            NewConversation::Broadcast { name } => self.put("broadcast").put(name),
        }
    }

    fn update(&mut self, update: &ConversationUpdate) -> &mut Parts {
        let ConversationUpdate { name, avatar, state } = update;
        self.text(name.as_ref()).text(avatar.as_ref()).text(state.as_ref())
    }

    fn profile(&mut self, patch: &ProfilePatch) -> &mut Parts {
        let ProfilePatch {
            name,
            avatar,
            roles,
            attributes,
            attribute_changes,
            preferences,
        } = patch;
        self.text(name.as_ref()).text(avatar.as_ref());
        self.flag(roles.is_some()).number(roles.as_ref().map_or(0, Vec::len) as u32);
        for role in roles.iter().flatten() {
            self.put(role);
        }
        let changes = attribute_changes.as_ref().map(|changes| &changes.sent);
        self.text(attributes.as_ref()).text(changes).text(preferences.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use haggle_model::{ConversationId, MessageId, Role};

    use super::*;
    use crate::{AttributeChanges, NewMessage, To};

    const C: ConversationId = ConversationId(5);

    fn message() -> MessageId {
        C.message(7)
    }

    /// One of each.
    fn commands() -> Vec<(&'static str, Command)> {
        let user = || UserId::from("ann");
        let text = |text: &str| Some(text.to_owned());
        let group = |name| NewConversation::Group {
            participants: vec![user()],
            name,
            avatar: None,
        };
        let context = NewConversation::Context {
            owner: "shop".into(),
            context_type: "booking".into(),
            context_id: "42".into(),
            participants: vec![user()],
            name: None,
            state: text("{}"),
        };
        let update = ConversationUpdate {
            name: text("new"),
            ..ConversationUpdate::default()
        };
        let changes = AttributeChanges {
            sent: r#"{"a":1}"#.into(),
            apply: |_, sent| sent.into(),
        };
        let patch = ProfilePatch {
            name: text("Ann"),
            roles: Some(vec!["provider".into()]),
            attribute_changes: Some(changes),
            ..ProfilePatch::default()
        };
        let send = |to| Command::Send {
            to,
            message: NewMessage {
                metadata: text("{}"),
                reply_to: Some(message()),
                ..NewMessage::text("hi")
            },
        };
        vec![
            ("send", send(To::Conversation(C))),
            (
                "edit",
                Command::Edit {
                    message: message(),
                    text: text("x"),
                    metadata: None,
                    if_rev: Some(3),
                },
            ),
            (
                "edit to nothing",
                Command::Edit {
                    message: message(),
                    text: text(""),
                    metadata: None,
                    if_rev: None,
                },
            ),
            (
                "delete",
                Command::Delete {
                    message: message(),
                    if_rev: None,
                },
            ),
            (
                "react",
                Command::React {
                    message: message(),
                    emoji: text("+"),
                },
            ),
            (
                "react not",
                Command::React {
                    message: message(),
                    emoji: None,
                },
            ),
            ("direct", Command::CreateConversation(NewConversation::Direct { with: user() })),
            ("group", Command::CreateConversation(group(text("G")))),
            ("group without a name", Command::CreateConversation(group(None))),
            ("context", Command::CreateConversation(context)),
            (
                "broadcast",
                Command::CreateConversation(NewConversation::Broadcast { name: "news".into() }),
            ),
            ("update", Command::UpdateConversation { conversation: C, update }),
            (
                "close",
                Command::CloseConversation {
                    conversation: C,
                    closed: true,
                    reason: None,
                },
            ),
            (
                "add",
                Command::AddParticipant {
                    conversation: C,
                    user: user(),
                    role: Role::Member,
                },
            ),
            (
                "remove",
                Command::RemoveParticipant {
                    conversation: C,
                    user: user(),
                },
            ),
            (
                "role",
                Command::SetRole {
                    conversation: C,
                    user: user(),
                    role: Role::Admin,
                },
            ),
            ("block", Command::Block { user: user(), blocked: true }),
            (
                "call",
                Command::Call {
                    name: "offer.accept".into(),
                    conversation: Some(C),
                    payload: "{}".into(),
                },
            ),
            (
                "call alone",
                Command::Call {
                    name: "offer.accept".into(),
                    conversation: None,
                    payload: "{}".into(),
                },
            ),
            (
                "archive",
                Command::Archive {
                    conversation: C,
                    archived: true,
                },
            ),
            ("hide", Command::Hide { conversation: C }),
            ("hide a message", Command::HideMessage { message: message() }),
            (
                "mute",
                Command::Mute {
                    conversation: C,
                    until: Some(9),
                },
            ),
            ("profile", Command::UpdateProfile { user: user(), patch }),
            (
                "profile unchanged",
                Command::UpdateProfile {
                    user: user(),
                    patch: ProfilePatch::default(),
                },
            ),
            ("read one", Command::ReadNotification { seq: 4 }),
            ("read all", Command::ReadAllNotifications),
        ]
    }

    /// As they stand in logs.
    const DIGESTS: &[(&str, u64)] = &[
        ("send", 0x49f5babd1d3d760b),
        ("edit", 0xf2800d273ddfda73),
        ("edit to nothing", 0xfd8c724baec2d7cd),
        ("delete", 0x7ec7d07ff7ac3560),
        ("react", 0x33c1ad9973ea53ff),
        ("react not", 0xfb21ae09a29abe2d),
        ("direct", 0xac09046104d23128),
        ("group", 0x8257bbb1699fd55d),
        ("group without a name", 0x464ddddcb435a7d8),
        ("context", 0xbcc883dcdca346fc),
        ("broadcast", 0x7ef36dbaba1bee4b),
        ("update", 0x4fb3e0dc3181889a),
        ("close", 0x637b1df6883e593d),
        ("add", 0xf5bcbe58232630d3),
        ("remove", 0x2e7fa5fef08d03af),
        ("role", 0xa2cd9e975af013e0),
        ("block", 0x94bf2d0ac1130dc5),
        ("call", 0x7e367070a5df18b9),
        ("call alone", 0xda251964dda91576),
        ("archive", 0x72fe46900c2f4cac),
        ("hide", 0x0e1d31f87bdc5091),
        ("hide a message", 0xb1e8721730fe254c),
        ("mute", 0xc99fb34bd0065a24),
        ("profile", 0x1ac2c159ea197664),
        ("profile unchanged", 0x53ffb61f9bf82572),
        ("read one", 0xc14ab950b7851462),
        ("read all", 0x160cd8ba0d623dc3),
    ];

    #[test]
    fn digests_never_change() {
        let now: Vec<(&str, u64)> = commands().iter().map(|(name, command)| (*name, digest(command))).collect();
        assert_eq!(now, DIGESTS, "a retry of a command from before an upgrade would be refused");
    }

    #[test]
    fn other_commands_have_other_digests() {
        let mut seen = BTreeMap::new();
        for (name, command) in commands() {
            assert_eq!(seen.insert(digest(&command), name), None, "{name}");
        }
    }
}
