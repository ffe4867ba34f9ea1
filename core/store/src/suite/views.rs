//! What the views answer, one rule at a time.

use haggle_model::{
    Address, CommandId, Content, ConversationId, ConversationUpdate, Effects, Event, KvChange, MarkChange, MessageId, Millis, Notification, PluginId,
    Profile, Reservation, ReservationState, Role, Seq, TimerChange, UserId,
};

use super::{Opener, Pen, text};
use crate::{InboxQuery, Page, SharedStore};

fn user(name: &str) -> UserId {
    UserId::from(name)
}

fn context(name: &str) -> Address {
    Address::Context(PluginId::from("shop"), "order".to_string(), name.to_string())
}

/// An entry is in every answer from the moment its append has returned.
pub async fn entries_are_in_the_views_at_once(open: &Opener) {
    let mut pen = Pen::new(open).await;
    let id = pen.direct("ann", "bob").await;
    for i in 0..200 {
        let seq = pen.say(id, "ann", &i.to_string()).await;
        let message = pen.store.message(id.message(seq)).await.unwrap().expect("just appended");
        assert_eq!(message.content.text, i.to_string());
        assert_eq!(pen.store.inbox_row(&user("bob"), id).await.unwrap().unwrap().unread, i + 1);
    }
}

/// Name, state, closing, blocks, and where the conversation ends.
pub async fn a_conversation_says_what_its_events_say(open: &Opener) {
    let mut pen = Pen::new(open).await;
    assert_eq!(pen.store.conversation(ConversationId(99 << 16)).await.unwrap(), None);
    let id = pen.create(context("1"), &["ann", "bob"]).await;
    let row = pen.store.conversation(id).await.unwrap().unwrap();
    assert_eq!(
        (row.address, row.creator, row.name.as_deref()),
        (context("1"), Some(user("ann")), Some("a name"))
    );
    assert_eq!((row.head, row.head_n, row.participants, row.closed), (3, 0, 2, false));
    assert_eq!((row.last_message, row.last_message_at), (0, row.created_at));

    let update = |name: Option<&str>, state: Option<&str>| {
        Event::ConversationUpdated(ConversationUpdate {
            name: name.map(str::to_string),
            avatar: None,
            state: state.map(str::to_string),
        })
    };
    pen.write(id, "ann", update(Some("new"), Some("{}"))).await;
    pen.write(id, "ann", update(Some(""), None)).await;
    pen.write(id, "ann", Event::ConversationClosed(None)).await;
    let seq = pen.say(id, "ann", "hello").await;
    pen.write(
        id,
        "ann",
        Event::MessageCreated(Content {
            countable: false,
            ..text("note")
        }),
    )
    .await;
    pen.write(id, "bob", Event::UserBlocked { by: user("bob") }).await;
    pen.write(id, "ann", Event::UserBlocked { by: user("ann") }).await;
    let last = pen.write(id, "bob", Event::UserUnblocked { by: user("bob") }).await;
    let row = pen.store.conversation(id).await.unwrap().unwrap();
    assert_eq!((row.name, row.state.as_deref(), row.closed), (None, Some("{}"), true));
    assert_eq!((row.head, row.head_n, row.updated_at), (last.seq, 1, last.at));
    assert_eq!(row.last_message, seq);
    assert_eq!(row.blocked_by, [user("ann")]);

    pen.write(id, "ann", Event::ConversationReopened).await;
    pen.write(
        id,
        "ann",
        Event::MessageDeleted {
            target: seq,
            sender: user("ann"),
            n: 1,
        },
    )
    .await;
    let row = pen.store.conversation(id).await.unwrap().unwrap();
    assert_eq!((row.closed, row.last_message, row.last_message_at), (false, 0, row.created_at));

    // A conversation that was never created still has a head.
    let personal = pen.personal("ann");
    pen.write(personal, "ann", Event::MembershipStarted(id)).await;
    assert_eq!(pen.store.conversation(personal).await.unwrap(), None);
    assert_eq!(pen.store.head(personal).await.unwrap(), Some((1, 0)));
    assert_eq!(pen.store.events(personal, 0, 10).await.unwrap().len(), 1);
    assert_eq!(pen.store.head(ConversationId(99 << 16)).await.unwrap(), None);
}

/// Joining starts a row anew, leaving keeps it, a role may change.
pub async fn members_come_and_go(open: &Opener) {
    let mut pen = Pen::new(open).await;
    let id = pen.create(context("1"), &["ann", "bob", "cem"]).await;
    pen.say(id, "ann", "one").await;
    let left = pen.write(id, "ann", Event::ParticipantLeft { user: user("bob") }).await.seq;
    pen.write(id, "ann", Event::ParticipantLeft { user: user("bob") }).await;
    pen.write(
        id,
        "ann",
        Event::ParticipantUpdated {
            user: user("cem"),
            role: Role::Admin,
        },
    )
    .await;
    let bob = pen.store.member(id, &user("bob")).await.unwrap().unwrap();
    assert_eq!((bob.joined_seq, bob.left_seq), (3, Some(left)));
    assert_eq!(pen.store.conversation(id).await.unwrap().unwrap().participants, 2);
    assert_eq!(pen.store.member(id, &user("cem")).await.unwrap().unwrap().role, Role::Admin);

    let back = pen
        .write(
            id,
            "ann",
            Event::ParticipantJoined {
                user: user("bob"),
                role: Role::Admin,
            },
        )
        .await;
    let bob = pen.store.member(id, &user("bob")).await.unwrap().unwrap();
    assert_eq!(
        (bob.role, bob.joined_seq, bob.joined_at, bob.left_seq),
        (Role::Admin, back.seq, back.at, None)
    );
    assert_eq!(
        bob.mark,
        MarkChange {
            delivered_seq: back.seq,
            read_seq: back.seq,
            read_n: 1,
            own: 0
        }
    );

    let names = async |after: Option<&str>, limit| -> Vec<String> {
        let members = pen.store.members(id, after.map(UserId::from).as_ref(), limit).await.unwrap();
        members.into_iter().map(|member| member.user.to_string()).collect()
    };
    assert_eq!(names(None, 10).await, ["ann", "bob", "cem"]);
    assert_eq!(names(None, 2).await, ["ann", "bob"]);
    assert_eq!(names(Some("ann"), 10).await, ["bob", "cem"]);
    assert_eq!(pen.store.member(id, &user("eve")).await.unwrap(), None);
}

/// Delivered only grows; the read part is taken unless it is older; steps are kept.
pub async fn marks_merge_by_maximum(open: &Opener) {
    let mut pen = Pen::new(open).await;
    let id = pen.direct("ann", "bob").await;
    for i in 0..4 {
        pen.say(id, "ann", &i.to_string()).await;
    }
    let mark = |delivered_seq, read_seq, read_n, own| MarkChange {
        delivered_seq,
        read_seq,
        read_n,
        own,
    };
    let marked = |mark| Event::Marked { user: user("bob"), mark };
    pen.write(id, "bob", marked(mark(6, 5, 2, 0))).await;
    pen.write(id, "bob", marked(mark(5, 4, 1, 0))).await;
    assert_eq!(pen.store.member(id, &user("bob")).await.unwrap().unwrap().mark, mark(6, 5, 2, 0));
    pen.write(id, "bob", marked(mark(0, 5, 2, 1))).await;
    assert_eq!(
        pen.store.member(id, &user("bob")).await.unwrap().unwrap().mark,
        mark(6, 5, 2, 1),
        "an equal one is taken"
    );
    pen.write(
        id,
        "eve",
        Event::Marked {
            user: user("eve"),
            mark: mark(1, 1, 1, 0),
        },
    )
    .await;
    assert_eq!(pen.store.member(id, &user("eve")).await.unwrap(), None);

    let own = pen.entry(id, "bob", Event::MessageCreated(text("own")));
    let own = pen
        .append(haggle_model::Entry {
            effects: Effects {
                mark: Some(mark(8, 8, 5, 0)),
                ..Effects::default()
            },
            ..own
        })
        .await;
    assert_eq!(
        pen.store.member(id, &user("bob")).await.unwrap().unwrap().mark,
        mark(own.seq, own.seq, 5, 0)
    );
    pen.write(
        id,
        "ann",
        Event::Marked {
            user: user("ann"),
            mark: mark(7, 7, 5, 0),
        },
    )
    .await;

    let steps = async |from, limit| -> Vec<(String, Seq)> {
        pen.store
            .advances(id, from, limit)
            .await
            .unwrap()
            .into_iter()
            .map(|step| (step.user.to_string(), step.to_seq))
            .collect()
    };
    assert_eq!(steps(0, 10).await, [("bob".to_string(), 5), ("ann".to_string(), 7)]);
    assert_eq!(steps(6, 10).await, [("ann".to_string(), 7)]);
    assert_eq!(steps(0, 1).await, [("bob".to_string(), 5)]);
}

/// Unread = head_n - read_n - own - deleted by others.
pub async fn unread_counts_leave_out_own_and_deleted(open: &Opener) {
    let mut pen = Pen::new(open).await;
    let id = pen.direct("ann", "bob").await;
    let mut seqs = Vec::new();
    for (i, who) in ["ann", "ann", "bob", "ann", "bob"].into_iter().enumerate() {
        seqs.push(pen.say(id, who, &i.to_string()).await);
    }
    pen.write(
        id,
        "bob",
        Event::Marked {
            user: user("bob"),
            mark: MarkChange {
                delivered_seq: 0,
                read_seq: seqs[0],
                read_n: 1,
                own: 2,
            },
        },
    )
    .await;
    assert_eq!(pen.store.inbox_row(&user("bob"), id).await.unwrap().unwrap().unread, 2);
    pen.write(
        id,
        "ann",
        Event::MessageDeleted {
            target: seqs[1],
            sender: user("ann"),
            n: 2,
        },
    )
    .await;
    pen.write(
        id,
        "bob",
        Event::MessageDeleted {
            target: seqs[2],
            sender: user("bob"),
            n: 3,
        },
    )
    .await;
    assert_eq!(pen.store.inbox_row(&user("bob"), id).await.unwrap().unwrap().unread, 1);
    assert_eq!(pen.store.inbox_row(&user("eve"), id).await.unwrap(), None);

    assert_eq!(pen.store.own_numbers(id, &user("bob"), 0).await.unwrap(), [3, 5]);
    assert_eq!(pen.store.own_numbers(id, &user("bob"), 3).await.unwrap(), [5]);
    assert_eq!(pen.store.own_numbers(id, &user("ann"), 1).await.unwrap(), [2, 4]);
    assert_eq!(pen.store.own_numbers(id, &user("ann"), 5).await.unwrap(), []);
    assert_eq!(pen.store.deleted(id, 0).await.unwrap(), [(2, user("ann")), (3, user("bob"))]);
    assert_eq!(pen.store.deleted(id, 2).await.unwrap(), [(3, user("bob"))]);
}

/// Edits, reactions and deletion show wherever the message shows.
pub async fn a_message_shows_its_present_state(open: &Opener) {
    let mut pen = Pen::new(open).await;
    let id = pen.direct("ann", "bob").await;
    let first = text("first");
    let created = pen
        .write(
            id,
            "ann",
            Event::MessageCreated(Content {
                client_id: Some("c1".to_string()),
                ..first
            }),
        )
        .await;
    let (seq, target) = (created.seq, created.seq);
    let react = |who: &str, emoji: &str| Event::ReactionAdded {
        target,
        user: user(who),
        emoji: emoji.to_string(),
    };
    pen.write(id, "bob", react("bob", "+1")).await;
    pen.write(id, "ann", react("ann", "x")).await;
    pen.write(id, "bob", react("bob", "-1")).await;
    let edit = pen
        .write(
            id,
            "ann",
            Event::MessageEdited {
                target,
                content: Content {
                    countable: false,
                    ..text("second")
                },
            },
        )
        .await;
    let last = pen.write(id, "ann", Event::ReactionRemoved { target, user: user("ann") }).await;
    let message = pen.store.message(id.message(seq)).await.unwrap().unwrap();
    assert_eq!((message.sender.as_str(), message.content.text.as_str(), message.n), ("ann", "second", 1));
    assert_eq!(
        (message.content.countable, message.content.client_id.as_deref()),
        (true, Some("c1")),
        "those of the creation"
    );
    assert_eq!(
        (message.rev, message.edited_at, message.updated_at, message.deleted_at),
        (last.seq, Some(edit.at), last.at, None)
    );
    assert_eq!(message.reactions, [(user("bob"), "-1".to_string())]);
    for event in pen.store.events(id, 3, 10).await.unwrap() {
        assert_eq!(event.message.as_ref(), Some(&message), "event {}", event.seq);
        assert!(!format!("{:?}", event.event).contains("first"), "an earlier text does not leave");
    }

    let deleted = pen
        .write(
            id,
            "ann",
            Event::MessageDeleted {
                target,
                sender: user("ann"),
                n: 1,
            },
        )
        .await;
    pen.write(id, "bob", react("bob", "late")).await;
    let message = pen.store.message(id.message(seq)).await.unwrap().unwrap();
    assert_eq!(
        message.content,
        Content {
            kind: "text".to_string(),
            ..Content::default()
        }
    );
    assert_eq!(
        (message.deleted_at, message.rev, message.reactions.len()),
        (Some(deleted.at), deleted.seq, 0)
    );
    assert_eq!(pen.store.message(id.message(1)).await.unwrap(), None, "not a message");
    assert_eq!(pen.store.message(id.message(500)).await.unwrap(), None);
}

/// Pages join without gaps and doubles, forwards and backwards; a viewer's hidden messages do not show.
pub async fn messages_page_in_both_directions(open: &Opener) {
    let mut pen = Pen::new(open).await;
    let id = pen.direct("ann", "bob").await;
    let mut sent = Vec::new();
    for i in 0..25 {
        sent.push(pen.say(id, "ann", &i.to_string()).await);
        if i % 4 == 0 {
            pen.write(
                id,
                "bob",
                Event::Custom {
                    name: "x.p".to_string(),
                    payload: "1".to_string(),
                },
            )
            .await;
        }
    }
    let seqs = async |store: &SharedStore, page, limit, viewer: Option<&str>| -> Vec<Seq> {
        let messages = store.messages(id, page, limit, viewer.map(UserId::from).as_ref()).await.unwrap();
        messages.into_iter().map(|message| message.id.seq).collect()
    };
    let mut backwards = seqs(&pen.store, Page::Newest, 7, None).await;
    assert_eq!(backwards.len(), 7);
    while let Some(last) = backwards.last().copied() {
        let page = seqs(&pen.store, Page::Before(last), 7, None).await;
        if page.is_empty() {
            break;
        }
        backwards.extend(page);
    }
    backwards.reverse();
    assert_eq!(backwards, sent);
    let mut forwards = Vec::new();
    loop {
        let page = seqs(&pen.store, Page::After(forwards.last().copied().unwrap_or(0)), 7, None).await;
        if page.is_empty() {
            break;
        }
        forwards.extend(page);
    }
    assert_eq!(forwards, sent);

    let own = pen.personal("bob");
    pen.write(own, "bob", Event::MessageHidden(id.message(sent[24]))).await;
    pen.write(
        own,
        "bob",
        Event::ConversationHidden {
            conversation: id,
            to_seq: sent[20],
        },
    )
    .await;
    assert_eq!(seqs(&pen.store, Page::Newest, 3, Some("bob")).await, [sent[23], sent[22], sent[21]]);
    assert_eq!(seqs(&pen.store, Page::After(0), 10, Some("bob")).await, [sent[21], sent[22], sent[23]]);
    assert_eq!(seqs(&pen.store, Page::Newest, 3, Some("ann")).await, [sent[24], sent[23], sent[22]]);
    for (seq, hidden) in [(sent[24], true), (sent[20], true), (sent[3], true), (sent[21], false)] {
        assert_eq!(pen.store.is_hidden(&user("bob"), id.message(seq)).await.unwrap(), hidden);
        assert!(!pen.store.is_hidden(&user("ann"), id.message(seq)).await.unwrap());
    }
}

/// A hole ends the page: what comes after it is not shown.
pub async fn events_end_before_the_first_missing_seq(open: &Opener) {
    let mut pen = Pen::new(open).await;
    let id = pen.direct("ann", "bob").await;
    pen.say(id, "ann", "4").await;
    pen.entry(id, "ann", Event::ConversationReopened); // seq 5 is lost
    pen.say(id, "ann", "6").await;
    let seqs = async |after, limit| -> Vec<Seq> {
        pen.store
            .events(id, after, limit)
            .await
            .unwrap()
            .into_iter()
            .map(|event| event.seq)
            .collect()
    };
    assert_eq!(seqs(0, 10).await, [1, 2, 3, 4]);
    assert_eq!(seqs(1, 2).await, [2, 3]);
    assert_eq!(seqs(4, 10).await, []);
    assert_eq!(seqs(5, 10).await, [6]);
    assert_eq!(seqs(6, 10).await, []);
}

/// An answered command is found by its id: its first seq, digest and answer.
pub async fn commands_are_found_again(open: &Opener) {
    let mut pen = Pen::new(open).await;
    let id = pen.direct("ann", "bob").await;
    let other = pen.direct("ann", "cem").await;
    let command = |n: u8| CommandId([n; 16]);
    let with = |entry: haggle_model::Entry, n: u8, answer: Option<&str>| haggle_model::Entry {
        command: Some(command(n)),
        digest: u64::MAX - u64::from(n),
        effects: Effects {
            answer: answer.map(str::to_string),
            ..Effects::default()
        },
        ..entry
    };
    let mut first_at = 0;
    for n in 1..=20 {
        // Three kinds: one entry, several entries, only entries without a seq.
        let entry = if n % 3 == 0 {
            pen.entry(id, "ann", Event::Effects)
        } else {
            pen.entry(id, "ann", Event::MessageCreated(text("x")))
        };
        let entry = pen.append(with(entry, n, (n % 3 == 0).then_some("{}"))).await;
        first_at = if n == 11 { entry.at } else { first_at };
        if n % 3 == 1 {
            let second = pen.entry(id, "ann", Event::ConversationReopened);
            pen.append(with(second, n, None)).await;
        }
        let found = pen.store.command(id, command(n)).await.unwrap().expect("just appended");
        assert_eq!(
            (found.id, found.digest, found.seq, found.at),
            (command(n), u64::MAX - u64::from(n), entry.seq, entry.at)
        );
        assert_eq!(found.answer.is_some(), n % 3 == 0);
    }
    assert_eq!(pen.store.command(id, command(99)).await.unwrap(), None);
    assert_eq!(pen.store.command(other, command(1)).await.unwrap(), None);
    let ids = async |since, limit| -> Vec<u8> {
        pen.store
            .commands(id, since, limit)
            .await
            .unwrap()
            .into_iter()
            .map(|row| row.id.0[0])
            .collect()
    };
    assert_eq!(ids(0, 100).await, (1..=20).rev().collect::<Vec<_>>());
    assert_eq!(ids(0, 3).await, [20, 19, 18]);
    assert_eq!(ids(first_at, 100).await, (11..=20).rev().collect::<Vec<_>>());
    let rows = pen.store.commands(id, 0, 100).await.unwrap();
    for row in rows {
        assert_eq!(Some(&row), pen.store.command(id, row.id).await.unwrap().as_ref());
    }
}

/// Everybody has a place in a broadcast and nobody is a member: marks come from the reader's own log, own messages from the
/// broadcast's, and it stands in every list.
pub async fn a_broadcast_is_read_by_everybody(open: &Opener) {
    let mut pen = Pen::new(open).await;
    assert!(pen.store.broadcasts(10).await.unwrap().is_empty());
    let news = pen.create(Address::Broadcast("news".to_string()), &[]).await;
    let direct = pen.direct("ann", "bob").await;
    assert_eq!(pen.store.broadcasts(10).await.unwrap(), [news]);
    let mut seqs = Vec::new();
    for (i, who) in ["root", "root", "ann", "root"].into_iter().enumerate() {
        seqs.push(pen.say(news, who, &i.to_string()).await);
    }
    let place = async |pen: &Pen, who: &str| {
        let row = pen.store.inbox_row(&user(who), news).await.unwrap().unwrap();
        (row.member.mark.delivered_seq, row.member.mark.read_seq, row.unread)
    };
    assert_eq!(pen.store.member(news, &user("bob")).await.unwrap(), None, "nobody is a member");
    assert_eq!(place(&pen, "bob").await, (0, 0, 4), "who has read nothing");
    assert_eq!(place(&pen, "root").await, (0, 0, 1), "without the own ones");

    let marked = |delivered_seq, read_seq, read_n| Event::BroadcastMarked {
        conversation: news,
        mark: MarkChange {
            delivered_seq,
            read_seq,
            read_n,
            own: 0,
        },
    };
    let (bob, root) = (pen.personal("bob"), pen.personal("root"));
    let open_personal = |who: &str| {
        Event::ConversationCreated(haggle_model::ConversationCreated {
            address: Address::Personal(user(who)),
            creator: None,
            name: None,
            avatar: None,
            state: None,
        })
    };
    pen.write(bob, "", open_personal("bob")).await;
    pen.write(root, "", open_personal("root")).await;
    let entry = pen.write(bob, "bob", marked(seqs[2], seqs[1], 2)).await;
    assert_eq!(entry.seq, 0, "a mark takes no seq of the own stream");
    assert_eq!(place(&pen, "bob").await, (seqs[2], seqs[1], 2));
    pen.write(bob, "bob", marked(seqs[3], seqs[0], 1)).await;
    assert_eq!(place(&pen, "bob").await, (seqs[3], seqs[1], 2), "merged by maximum");
    assert_eq!(place(&pen, "ann").await, (0, 0, 3), "nobody else's mark moves");
    pen.write(root, "root", marked(seqs[0], seqs[0], 1)).await;
    assert_eq!(place(&pen, "root").await, (seqs[0], seqs[0], 1));

    let deleted = |target, sender: &str, n| Event::MessageDeleted {
        target,
        sender: user(sender),
        n,
    };
    pen.write(news, "root", deleted(seqs[2], "ann", 3)).await;
    assert_eq!(
        (place(&pen, "bob").await.2, place(&pen, "root").await.2, place(&pen, "ann").await.2),
        (1, 0, 3),
        "a deleted message is unread for nobody, and was not for its sender"
    );

    let all = InboxQuery {
        limit: 10,
        ..InboxQuery::default()
    };
    let list = async |pen: &Pen, who: &str| -> Vec<ConversationId> {
        let rows = pen.store.inbox(&user(who), all).await.unwrap();
        rows.into_iter().map(|row| row.conversation.id).collect()
    };
    assert_eq!(list(&pen, "bob").await, [news, direct]);
    assert_eq!(list(&pen, "who was never heard of").await, [news]);
    let hidden = |to_seq| Event::ConversationHidden { conversation: news, to_seq };
    pen.write(bob, "bob", hidden(seqs[3] + 1)).await;
    assert_eq!(list(&pen, "bob").await, [direct]);
    pen.store.rebuild_views().await.unwrap();
    assert_eq!(place(&pen, "bob").await, (seqs[3], seqs[1], 1), "after a rebuild too");
    pen.say(news, "root", "again").await;
    assert_eq!(list(&pen, "bob").await, [news, direct], "a later message brings it back");
    assert_eq!(place(&pen, "bob").await.2, 2);
    assert_eq!(place(&pen, "root").await.2, 0);
}

/// The list of a user: newest first, paged, only present conversations of people, hidden ones until a message comes.
pub async fn the_inbox_is_sorted_and_filtered(open: &Opener) {
    let mut pen = Pen::new(open).await;
    let mut ids = Vec::new();
    for i in 0..6 {
        ids.push(pen.create(context(&i.to_string()), &["ann", "bob"]).await);
    }
    for i in [3, 1, 4] {
        pen.say(ids[i], "ann", "hi").await;
    }
    let list = async |store: &SharedStore, who: &str, query: InboxQuery| store.inbox(&user(who), query).await.unwrap();
    let numbers = |rows: &[crate::InboxRow]| -> Vec<usize> {
        rows.iter()
            .map(|row| ids.iter().position(|id| *id == row.conversation.id).unwrap())
            .collect()
    };
    let all = InboxQuery {
        limit: 10,
        ..InboxQuery::default()
    };
    let rows = list(&pen.store, "bob", all).await;
    assert_eq!(numbers(&rows), [4, 1, 3, 5, 2, 0], "by last message, then by creation");
    assert_eq!(rows[0].unread, 1);
    let page = list(&pen.store, "bob", InboxQuery { limit: 2, ..all }).await;
    assert_eq!(numbers(&page), [4, 1]);
    let last = &page[1].conversation;
    let page = list(
        &pen.store,
        "bob",
        InboxQuery {
            limit: 3,
            before: Some((last.last_message_at, last.id)),
            ..all
        },
    )
    .await;
    assert_eq!(numbers(&page), [3, 5, 2]);

    let own = pen.personal("bob");
    pen.write(
        own,
        "bob",
        Event::ConversationArchived {
            conversation: ids[1],
            archived: true,
        },
    )
    .await;
    pen.write(
        own,
        "bob",
        Event::ConversationArchived {
            conversation: ids[5],
            archived: true,
        },
    )
    .await;
    pen.write(
        own,
        "bob",
        Event::ConversationArchived {
            conversation: ids[5],
            archived: false,
        },
    )
    .await;
    let hidden = pen
        .write(
            own,
            "bob",
            Event::ConversationHidden {
                conversation: ids[4],
                to_seq: 4,
            },
        )
        .await;
    pen.write(
        own,
        "bob",
        Event::ConversationHidden {
            conversation: ids[0],
            to_seq: 3,
        },
    )
    .await;
    pen.write(
        own,
        "bob",
        Event::ConversationMuted {
            conversation: ids[3],
            until: Some(77),
        },
    )
    .await;
    pen.write(ids[2], "ann", Event::ParticipantLeft { user: user("bob") }).await;
    assert_eq!(numbers(&list(&pen.store, "bob", all).await), [1, 3, 5]);
    assert_eq!(numbers(&list(&pen.store, "bob", InboxQuery { archived: Some(true), ..all }).await), [1]);
    assert_eq!(
        numbers(
            &list(
                &pen.store,
                "bob",
                InboxQuery {
                    archived: Some(false),
                    ..all
                }
            )
            .await
        ),
        [3, 5]
    );
    assert_eq!(list(&pen.store, "ann", all).await.len(), 6, "nobody else's list changes");

    let row = pen.store.inbox_row(&user("bob"), ids[4]).await.unwrap().unwrap();
    assert_eq!((row.personal.hidden_at, row.personal.hidden_to), (Some(hidden.at), 4));
    assert_eq!(pen.store.personal(&user("bob"), ids[3]).await.unwrap().muted_until, Some(77));
    assert!(
        pen.store
            .inbox_row(&user("bob"), ids[2])
            .await
            .unwrap()
            .unwrap()
            .member
            .left_seq
            .is_some()
    );
    pen.say(ids[4], "ann", "again").await;
    assert_eq!(numbers(&list(&pen.store, "bob", all).await), [4, 1, 3, 5]);
}

/// Values are absolute, the last one counts; lists are sorted and paged.
pub async fn kv_timers_and_reservations_are_absolute(open: &Opener) {
    let mut pen = Pen::new(open).await;
    let plugin = PluginId::from("shop");
    let scope = pen.keys.key(&Address::kv(&plugin, "slot"));
    let kv = |key: &str, value: Option<&str>| KvChange {
        plugin: plugin.clone(),
        key: key.to_string(),
        value: value.map(|value| value.as_bytes().to_vec()),
        expires_at: Some(5),
    };
    let timer = |name: &str, due: Option<Millis>| TimerChange {
        plugin: plugin.clone(),
        name: name.to_string(),
        due,
        payload: name.to_string(),
    };
    let state = |kept| ReservationState {
        holder: CommandId([3; 16]),
        conversation: scope,
        value: vec![1],
        since: 4,
        kept,
    };
    let reservation = |state| Reservation {
        plugin: plugin.clone(),
        key: "slot".to_string(),
        state,
    };
    let effects = async |pen: &mut Pen, effects: Effects| {
        let entry = pen.entry(scope, "plugin:shop", Event::Effects);
        pen.append(haggle_model::Entry { effects, ..entry }).await
    };
    let set = vec![
        kv("a/1", Some("1")),
        kv("a/2", Some("2")),
        kv("a/3", Some("3")),
        kv("b", Some("4")),
        kv("a", Some("0")),
    ];
    effects(
        &mut pen,
        Effects {
            kv: set,
            reservations: vec![reservation(Some(state(false)))],
            ..Effects::default()
        },
    )
    .await;
    effects(
        &mut pen,
        Effects {
            kv: vec![kv("a/2", Some("two")), kv("a/3", None)],
            ..Effects::default()
        },
    )
    .await;
    let value = async |pen: &Pen, key: &str| {
        pen.store
            .kv_get(scope, &plugin, key)
            .await
            .unwrap()
            .map(|row| String::from_utf8(row.value).unwrap())
    };
    assert_eq!(value(&pen, "a/2").await.as_deref(), Some("two"));
    assert_eq!(value(&pen, "a/3").await, None);
    assert_eq!(pen.store.kv_get(scope, &PluginId::from("other"), "a/2").await.unwrap(), None);
    let keys = async |pen: &Pen, prefix: &str, after: Option<&str>, limit| -> Vec<String> {
        pen.store
            .kv_list(scope, &plugin, prefix, after, limit)
            .await
            .unwrap()
            .into_iter()
            .map(|row| row.key)
            .collect()
    };
    assert_eq!(keys(&pen, "a/", None, 10).await, ["a/1", "a/2"]);
    assert_eq!(keys(&pen, "", None, 10).await, ["a", "a/1", "a/2", "b"]);
    assert_eq!(keys(&pen, "a", Some("a"), 1).await, ["a/1"]);
    assert_eq!(keys(&pen, "a/", Some("a/1"), 10).await, ["a/2"]);

    assert_eq!(pen.store.reservation(scope, &plugin, "slot").await.unwrap(), Some(state(false)));
    effects(
        &mut pen,
        Effects {
            reservations: vec![reservation(Some(state(true)))],
            ..Effects::default()
        },
    )
    .await;
    assert_eq!(pen.store.reservation(scope, &plugin, "slot").await.unwrap(), Some(state(true)));
    effects(
        &mut pen,
        Effects {
            reservations: vec![reservation(None)],
            ..Effects::default()
        },
    )
    .await;
    assert_eq!(pen.store.reservation(scope, &plugin, "slot").await.unwrap(), None);

    let timers = vec![
        timer("late", Some(30)),
        timer("soon", Some(10)),
        timer("gone", Some(15)),
        timer("moved", Some(40)),
    ];
    effects(
        &mut pen,
        Effects {
            timers,
            ..Effects::default()
        },
    )
    .await;
    effects(
        &mut pen,
        Effects {
            timers: vec![timer("gone", None), timer("moved", Some(20))],
            ..Effects::default()
        },
    )
    .await;
    let shard = scope.shard(pen.store.shards());
    let due = async |pen: &Pen, until, limit| -> Vec<String> {
        pen.store
            .timers_due(shard, until, limit)
            .await
            .unwrap()
            .into_iter()
            .map(|timer| timer.name)
            .collect()
    };
    assert_eq!(due(&pen, 30, 10).await, ["soon", "moved", "late"]);
    assert_eq!(due(&pen, 29, 10).await, ["soon", "moved"]);
    assert_eq!(due(&pen, 99, 1).await, ["soon"]);
    assert_eq!(pen.store.timer(scope, &plugin, "moved").await.unwrap().unwrap().due, 20);
    assert_eq!(pen.store.timer(scope, &plugin, "gone").await.unwrap(), None);
}

/// What only concerns one user.
pub async fn a_user_has_a_profile_blocks_and_personal_rows(open: &Opener) {
    let mut pen = Pen::new(open).await;
    let own = pen.personal("ann");
    assert_eq!(pen.store.user(&user("ann")).await.unwrap(), None);
    let profile = |name: &str| Profile {
        name: Some(name.to_string()),
        roles: vec!["seller".to_string()],
        ..Profile::default()
    };
    let first = pen.write(own, "ann", Event::ProfileUpdated(profile("A"))).await;
    let last = pen.write(own, "admin", Event::ProfileUpdated(profile("Ann"))).await;
    let row = pen.store.user(&user("ann")).await.unwrap().unwrap();
    assert_eq!(
        (row.id, row.profile, row.created_at, row.updated_at),
        (user("ann"), profile("Ann"), first.at, last.at)
    );
    assert_eq!(pen.store.user(&user("admin")).await.unwrap(), None);
    for (who, blocked) in [("eve", true), ("bob", true), ("cem", true), ("bob", true), ("cem", false)] {
        pen.write(own, "ann", Event::BlockListed { user: user(who), blocked }).await;
    }
    assert_eq!(pen.store.blocks(&user("ann")).await.unwrap(), [user("bob"), user("eve")]);
    assert_eq!(pen.store.blocks(&user("bob")).await.unwrap(), []);
    assert_eq!(
        pen.store.personal(&user("ann"), ConversationId(1 << 16)).await.unwrap(),
        Default::default()
    );
}

/// A later notification with the same key replaces an unread earlier one.
pub async fn notifications_collapse_and_are_read(open: &Opener) {
    let mut pen = Pen::new(open).await;
    let own = pen.personal("ann");
    let about = |collapse: Option<&str>| {
        let message = Some(MessageId {
            conversation: ConversationId(1 << 16),
            seq: 4,
        });
        Event::Notified(Notification {
            topic: "T".to_string(),
            message,
            collapse: collapse.map(str::to_string),
            ..Notification::default()
        })
    };
    let mut seqs = Vec::new();
    for collapse in [Some("k"), None, Some("k"), Some("j"), Some("k")] {
        seqs.push(pen.write(own, "plugin:p", about(collapse)).await.seq);
    }
    let ann = user("ann");
    let list = async |pen: &Pen, before, unread_only, limit| -> Vec<Seq> {
        pen.store
            .notifications(&user("ann"), before, unread_only, limit)
            .await
            .unwrap()
            .into_iter()
            .map(|row| row.id.seq)
            .collect()
    };
    assert_eq!(list(&pen, None, false, 10).await, [seqs[4], seqs[3], seqs[1]]);
    assert_eq!(pen.store.notifications_unread(&ann).await.unwrap(), 3);
    assert_eq!(list(&pen, Some(seqs[4]), false, 1).await, [seqs[3]]);
    let replaced = pen.store.notification(&ann, seqs[2]).await.unwrap().unwrap();
    assert!(replaced.read && replaced.updated_at > replaced.created_at);

    let read = pen.write(own, "ann", Event::NotificationsRead(vec![seqs[4], seqs[0], 99])).await;
    assert_eq!(list(&pen, None, true, 10).await, [seqs[3], seqs[1]]);
    let row = pen.store.notification(&ann, seqs[4]).await.unwrap().unwrap();
    assert_eq!((row.read, row.updated_at, row.notification.topic.as_str()), (true, read.at, "T"));
    let next = pen.write(own, "plugin:p", about(Some("k"))).await.seq;
    assert_eq!(
        list(&pen, None, false, 10).await,
        [next, seqs[4], seqs[3], seqs[1]],
        "one that was read stays"
    );
    pen.write(own, "ann", Event::AllNotificationsRead(seqs[3])).await;
    assert_eq!(list(&pen, None, true, 10).await, [next]);
    assert_eq!(pen.store.notifications_unread(&ann).await.unwrap(), 1);
    assert_eq!(pen.store.notification(&ann, 99).await.unwrap(), None);
    assert_eq!(pen.store.notifications_unread(&user("bob")).await.unwrap(), 0);
}
