// An unmodified socket.io-client against the real server: two users chat, and everything a client meets on the way.
//
//     HAGGLE_BIN=path/to/haggle node story.js
//
// starts a server of its own in a temporary directory and ends it. Every step is asserted; the exit code says how it went.

import assert from "node:assert/strict";
import { io } from "socket.io-client";
import { PATIENCE, TRANSPORTS, Wire, event, play, step, within } from "./haggle.js";

// What the test script of the document prints, its login being `haggle token`. The document has ids of its own.
const EXPECTED = `🧪 Testing Socket Event Notifications...

1. Logging in users...
✅ User user1@test.com logged in successfully
✅ User user2@test.com logged in successfully

2. Connecting WebSocket clients...
✅ Client 1 connected
✅ Client 2 connected

3. Creating new conversation...
✅ Conversation created: CONVERSATION
📝 Client 2 received new_conversation event

4. Sending message...
✅ Message sent: MESSAGE
💬 Client 1 received new_message event
💬 Client 2 received new_message event

5. Updating message...
✅ Message updated
✏️ Client 1 received message_updated event
✏️ Client 2 received message_updated event

🎉 Socket event test completed!`;

async function socketEventTesting(haggle) {
  const lines = ["🧪 Testing Socket Event Notifications...", "", "1. Logging in users..."];
  const users = ["user1@test.com", "user2@test.com"].map((id) => {
    const user = haggle.user(id);
    lines.push(`✅ User ${id} logged in successfully`);
    return user;
  });

  lines.push("", "2. Connecting WebSocket clients...");
  const clients = [];
  for (const { token } of users) {
    clients.push(await haggle.connected("/chat", { auth: { token } }));
    lines.push(`✅ Client ${clients.length} connected`);
  }
  // Both get each event, with this payload; what is printed is printed in the document's order.
  const both = (name, fits) => clients.map((client) => event(client, name, fits));

  lines.push("", "3. Creating new conversation...");
  const told = both("new_conversation");
  const participants = users.map(({ id }) => id);
  const conversation = await haggle.rest(users[0], "POST", "/api/conversations", { participants, type: "direct" });
  lines.push("✅ Conversation created: CONVERSATION");
  for (const { conversation: seen } of await Promise.all(told)) {
    assert.equal(seen._id, conversation._id);
    assert.deepEqual([...seen.participants].sort(), participants);
  }
  lines.push("📝 Client 2 received new_conversation event");

  lines.push("", "4. Sending message...");
  const created = both("new_message");
  const messages = `/api/conversations/${conversation._id}/messages`;
  const message = await haggle.rest(users[0], "POST", messages, { content: "Hello!", type: "text" });
  lines.push("✅ Message sent: MESSAGE");
  for (const [n, seen] of (await Promise.all(created)).entries()) {
    assert.deepEqual([seen.conversationId, seen.message._id, seen.message.content], [conversation._id, message._id, "Hello!"]);
    assert.equal(seen.message.senderId, users[0].id);
    lines.push(`💬 Client ${n + 1} received new_message event`);
  }

  lines.push("", "5. Updating message...");
  const updated = both("message_updated");
  await haggle.rest(users[0], "PUT", `/api/messages/${message._id}`, { content: "Hello there!" });
  lines.push("✅ Message updated");
  for (const [n, seen] of (await Promise.all(updated)).entries()) {
    assert.deepEqual([seen.conversationId, seen.message._id, seen.message.content], [conversation._id, message._id, "Hello there!"]);
    lines.push(`✏️ Client ${n + 1} received message_updated event`);
  }
  lines.push("", "🎉 Socket event test completed!");
  assert.deepEqual(lines, EXPECTED.split("\n"));
  clients.forEach((client) => client.close());
}

// The same in more detail.
async function story(haggle, ann, bob, transports) {
  const one = await haggle.connected("/chat", { auth: { token: ann.token }, transports });
  const two = await haggle.connected("/chat", { auth: { token: bob.token }, transports });

  const shown = [event(one, "new_conversation"), event(two, "new_conversation")];
  const body = { participants: [bob.id], type: "group", groupName: "Testing" };
  const conversation = await haggle.rest(ann, "POST", "/api/conversations", body);
  for (const { conversation: seen } of await Promise.all(shown)) {
    assert.equal(seen._id, conversation._id);
    assert.deepEqual([...seen.participants].sort(), [ann.id, bob.id].sort());
  }

  const created = [event(one, "new_message"), event(two, "new_message")];
  const received = event(two, "message_received");
  const updated = event(two, "conversation_updated", (said) => said.lastMessage === "Hello!");
  const message = await haggle.rest(ann, "POST", `/api/conversations/${conversation._id}/messages`, { content: "Hello!", type: "text" });
  for (const said of await Promise.all(created)) {
    assert.equal(said.conversationId, conversation._id);
    assert.equal(said.message._id, message._id);
    assert.equal(said.message.content, "Hello!");
    assert.equal(said.seq, message.seq);
  }
  assert.equal((await received).message._id, message._id);
  assert.ok((await updated).lastMessageAt);

  const changed = [event(one, "message_updated"), event(two, "message_updated")];
  await haggle.rest(ann, "PUT", `/api/messages/${message._id}`, { content: "Hello there!" });
  for (const said of await Promise.all(changed)) assert.equal(said.message.content, "Hello there!");

  await chat(one, two, ann, bob, conversation._id);
  one.close();
  two.close();
}

// The document's client code, with acks where we want to know.
async function chat(one, two, ann, bob, conversationId) {
  for (const socket of [one, two]) {
    const answer = await socket.timeout(PATIENCE).emitWithAck("join_conversation", { conversationId });
    assert.equal(answer.success, true, JSON.stringify(answer));
    assert.ok(answer.data.seq >= 2, "the newest event's: from there on nothing is missed");
  }
  const typing = event(two, "user_typing", (said) => said.isTyping);
  one.on("user_typing", () => assert.fail("a typist is not told of its own typing"));
  one.emit("typing_start", { conversationId });
  assert.equal((await typing).user.name, ann.id);
  const still = event(two, "user_typing", (said) => !said.isTyping);
  one.emit("typing_stop", { conversationId });
  await still;
  one.off("user_typing");

  const received = event(two, "message_received");
  const sent = { conversationId, message: { content: "From a socket", type: "text" }, clientMessageId: `m-${conversationId}` };
  const first = await one.timeout(PATIENCE).emitWithAck("send_message", sent);
  assert.equal(first.success, true, JSON.stringify(first));
  assert.equal((await received).message._id, first.data._id);
  const again = await one.timeout(PATIENCE).emitWithAck("send_message", sent);
  assert.deepEqual([again.data._id, again.data.duplicate], [first.data._id, true]);

  const read = event(one, "message_read", (said) => said.readBy === bob.id);
  two.emit("mark_read", { messageId: first.data._id, conversationId });
  assert.equal((await read).messageId, first.data._id);

  const error = event(one, "error");
  one.emit("send_message", { conversationId, message: { content: 5 } });
  const said = await error;
  assert.equal(said.success, false);
  assert.equal(said.code, "bad_request");
  const unknown = await one.timeout(PATIENCE).emitWithAck("command", { conversationId, name: "nobody.knows", data: { a: 1 } });
  assert.equal(unknown.success, false);

  const away = event(two, "user_online_status", (said) => said.userId === ann.id && !said.isOnline);
  one.emit("user_online", { isOnline: false });
  assert.ok((await away).lastSeen);
}

// The document's client code as it stands there, for two users; only URL, token and conversation are ours, and what it would print
// is kept.
async function documentsClient(haggle, ann, bob) {
  const { _id: conversationId } = await haggle.rest(ann, "POST", "/api/conversations", { participants: [bob.id], type: "direct" });
  const run = (token) => {
    const printed = [];
    const socket = io(`${haggle.url.replace("http", "ws")}/chat`, { auth: { token }, forceNew: true });
    haggle.sockets.push(socket);
    socket.emit("join_conversation", { conversationId });
    socket.emit("send_message", {
      conversationId,
      message: {
        content: "Hello!",
        type: "text",
      },
    });
    socket.on("message_received", (data) => {
      printed.push(`New message: ${data.message.content} of ${data.message.senderId}`);
    });
    socket.on("user_typing", (data) => {
      if (data.isTyping) {
        printed.push(`${data.user.name} is typing...`);
      }
    });
    socket.emit("typing_start", { conversationId });
    setTimeout(() => {
      socket.emit("typing_stop", { conversationId });
    }, 3000);
    return { socket, printed };
  };
  const two = run(bob.token);
  await event(two.socket, "message_received");
  const stops = event(two.socket, "user_typing", (said) => said.userId === ann.id && !said.isTyping);
  const one = run(ann.token);
  await stops;
  // Typing is told at once, a message when it is durable.
  const expect = [`New message: Hello! of ${ann.id}`, `New message: Hello! of ${bob.id}`, `${ann.id} is typing...`];
  assert.deepEqual([...two.printed].sort(), expect);
  assert.ok(one.printed.includes(`New message: Hello! of ${ann.id}`), "who sends receives too");
  one.socket.close();
  two.socket.close();
}

async function manyInOrder(haggle, ann, transports) {
  const one = await haggle.connected("/chat", { auth: { token: ann.token }, transports });
  const { _id: conversationId } = await haggle.rest(ann, "POST", "/api/conversations", { participants: ["carol"], type: "group", groupName: "Many" });
  const seen = [];
  const all = event(one, "new_message", (said) => {
    if (said.conversationId === conversationId) seen.push([said.message.content, said.seq]);
    return seen.length === 2000;
  });
  for (let n = 0; n < 2000; n++) one.emit("send_message", { conversationId, message: { content: `${n}`, type: "text" } });
  await all;
  const firstSeq = seen[0][1];
  assert.deepEqual(seen, Array.from({ length: 2000 }, (_, n) => [`${n}`, firstSeq + n]));
  one.close();
}

async function echo(haggle, transports) {
  const socket = await haggle.connected("/echo", { transports });
  const bytes = Buffer.from([0, 1, 30, 255]);
  const back = event(socket, "hello");
  const answer = await new Promise((resolve) => socket.emit("hello", { bytes, text: "€" }, 1.5, (...args) => resolve(args)));
  assert.deepEqual(answer, [{ bytes, text: "€" }, 1.5]);
  assert.deepEqual(await back, { bytes, text: "€" });
  socket.on("question", (n, reply) => reply(n + 1, bytes));
  const answered = event(socket, "answered");
  socket.emit("ask", 41);
  assert.equal(await answered, 42);
  socket.close();
}

async function namespacesOfOneConnection(haggle, ann) {
  const chat = await haggle.connected("/chat", { auth: { token: ann.token } });
  const error = await new Promise((resolve, reject) => {
    const socket = chat.io.socket("/nothing");
    socket.on("connect_error", resolve);
    socket.on("connect", () => reject(new Error("it connected")));
  });
  assert.equal(error.message, "Invalid namespace");
  const echo = chat.io.socket("/echo");
  assert.equal(await echo.timeout(PATIENCE).emitWithAck("hi", 7), 7);
  assert.ok(chat.connected, "the other namespace stays");
  chat.io._close();
}

async function wrongTokens(haggle) {
  assert.equal((await haggle.refused("/chat")).message, "No token provided");
  assert.equal((await haggle.refused("/chat", { auth: { token: "a.b.c" } })).message, "Invalid token");
  assert.equal((await haggle.refused("/", {})).message, "Invalid namespace");
}

async function comesBackAfterACut(haggle, ann, transports) {
  const wire = await Wire.to(haggle.url);
  const options = { url: wire.url, auth: { token: ann.token }, reconnection: true, reconnectionDelay: 50, transports };
  const socket = await haggle.connected("/chat", options);
  const before = socket.id;
  const [cut, back] = [event(socket, "disconnect"), event(socket, "connect")];
  wire.cut();
  assert.ok(["transport close", "transport error"].includes(await cut));
  assert.ok(socket.active, "it tries again by itself");
  wire.mend();
  await back;
  assert.notEqual(socket.id, before);
  assert.ok(!socket.recovered, "nothing is recovered unless it is configured");
  const { _id: conversationId } = await haggle.rest(ann, "POST", "/api/conversations", { participants: ["bob"], type: "direct" });
  const answer = await socket.timeout(PATIENCE).emitWithAck("join_conversation", { conversationId });
  assert.equal(answer.success, true);
  socket.close();
  wire.close();
}

async function staysOverSomePings(haggle) {
  for (const [, transports] of TRANSPORTS) {
    const socket = await haggle.connected("/echo", { transports });
    const pings = new Promise((resolve) => {
      let count = 0;
      socket.io.on("ping", () => ++count === 2 && resolve());
    });
    await within(pings, "two pings");
    assert.ok(socket.connected);
    socket.close();
  }
}

const settings = { HAGGLE__SOCKETIO__PING_INTERVAL_MS: "1000" };
// The plugin of examples/socketio-echo.
const config = `[[socketio.dialects]]
namespace = "/echo"
plugin = "socketio-echo"
anonymous = true
`;

await play(settings, async (haggle) => {
  const [ann, bob] = [haggle.user("ann"), haggle.user("bob")];
  await step("the document's test of all socket events", () => socketEventTesting(haggle));
  for (const [name, transports] of TRANSPORTS) {
    await step(`the story: ${name}`, () => story(haggle, ann, bob, transports));
    await step(`2,000 messages in order: ${name}`, () => manyInOrder(haggle, ann, transports));
    await step(`it comes back after a cut: ${name}`, () => comesBackAfterACut(haggle, ann, transports));
    await step(`events, binary and acks both ways: ${name}`, () => echo(haggle, transports));
  }
  await step("the document's own client code", () => documentsClient(haggle, ann, bob));
  await step("namespaces of one connection, one of them invalid", () => namespacesOfOneConnection(haggle, ann));
  await step("no token, a wrong token, a wrong namespace", () => wrongTokens(haggle));
  await step("clients stay over some pings", () => staysOverSomePings(haggle));
}, config);
