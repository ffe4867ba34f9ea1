// An unmodified socket.io-client talks to a namespace that a plugin owns.
//
//     HAGGLE_BIN=path/to/haggle HAGGLE_PLUGINS=path/to/plugins node story.js
//
// starts a server of its own in a temporary directory and ends it. Every step is asserted; the exit code says how it went.

import assert from "node:assert/strict";
import { PATIENCE, TRANSPORTS, play, step, within } from "../socketio-chat/haggle.js";

// One plugin, four namespaces: for users, for everybody, for those who say late who they are, and one that nobody offers.
const config = `[[socketio.dialects]]
namespace = "/"
plugin = "socketio-echo"

[[socketio.dialects]]
namespace = "/open"
plugin = "socketio-echo"
anonymous = true

[[socketio.dialects]]
namespace = "/late"
plugin = "socketio-echo"
auth_grace_ms = 5000

[[socketio.dialects]]
namespace = "/gone"
plugin = "no-such-plugin"
anonymous = true
`;

// All arguments of the next event of that name.
const event = (socket, name) => within(new Promise((resolve) => socket.once(name, (...args) => resolve(args))), `event ${name}`);

const ask = (socket, ...args) => socket.timeout(PATIENCE).emitWithAck(...args);

async function echoes(haggle, ann, transports) {
  const socket = haggle.open("/", { auth: { token: ann.token }, transports });
  const [hello] = await event(socket, "connected");
  assert.deepEqual(hello, { userId: "ann", socketId: socket.id }, "what the plugin emits in connect follows the connect");
  const bytes = Buffer.from([0, 1, 30, 255]);
  const back = event(socket, "hello");
  const acked = await new Promise((resolve) => socket.emit("hello", { bytes, text: "€" }, 1.5, (...args) => resolve(args)));
  assert.deepEqual(acked, [{ bytes, text: "€" }, 1.5]);
  assert.deepEqual(await back, [{ bytes, text: "€" }, 1.5]);
  const answers = await Promise.all(Array.from({ length: 200 }, (_, n) => ask(socket, "count", n)));
  assert.deepEqual(answers, Array.from({ length: 200 }, (_, n) => n));
  socket.on("question", (n, reply) => reply(n + 1, bytes));
  const answered = event(socket, "answered");
  socket.emit("ask", 41);
  assert.deepEqual(await answered, [42, bytes], "the server has asked, and the plugin heard the ack");
  socket.close();
}

async function names(haggle, ann, bob) {
  const [one, two, three] = [
    await haggle.connected("/", { auth: { token: ann.token } }),
    await haggle.connected("/", { auth: { token: bob.token } }),
    await haggle.connected("/", { auth: { token: bob.token } }),
  ];
  const first = [event(one, "said"), event(two, "said"), event(three, "said")];
  const sent = await ask(one, "say", { to: "bob", text: "hello" });
  assert.ok(sent.success && sent.id);
  for (const [said] of await Promise.all(first)) assert.deepEqual(said, { conversationId: sent.conversationId, from: "ann", text: "hello" });

  assert.deepEqual(await ask(two, "join", { conversationId: sent.conversationId }), { success: true });
  let uninvited = 0;
  one.on("said_here", () => uninvited++);
  three.on("said_here", () => uninvited++);
  const here = event(two, "said_here");
  const last = event(three, "said");
  const response = await fetch(`${haggle.url}/api/conversations/${sent.conversationId}/messages`, {
    method: "POST",
    headers: { authorization: `Bearer ${ann.token}`, "content-type": "application/json" },
    body: JSON.stringify({ content: "by REST", type: "text" }),
  });
  assert.ok(response.ok);
  assert.equal((await here)[0].text, "by REST", "whatever transport a message comes by");
  await last;
  await ask(one, "flush");
  await ask(three, "flush");
  assert.equal(uninvited, 0, "only who has joined");

  const stranger = await ask(two, "join", { conversationId: "0123456789abcdef00000000" });
  assert.deepEqual([stranger.success, stranger.code, stranger.detail], [false, "plugin_rejected", "not_found"]);
}

async function entrances(haggle, ann) {
  assert.equal((await haggle.refused("/")).message, "No token provided");
  assert.equal((await haggle.refused("/", { auth: { token: "a.b.c" } })).message, "Invalid token");
  assert.equal((await haggle.refused("/nothing")).message, "Invalid namespace");
  assert.equal((await haggle.refused("/gone")).message, "the plugin of this namespace is not active");
  const no = await haggle.refused("/", { auth: { token: ann.token, refuse: true } });
  assert.deepEqual([no.message, no.data], ["not you", { code: "unwelcome" }]);

  const anybody = haggle.open("/open");
  assert.equal((await event(anybody, "connected"))[0].userId, "");
  assert.equal(await ask(anybody, "hi", 7), 7);
  assert.equal((await ask(anybody, "say", { to: "bob", text: "x" })).detail, "unauthenticated");

  const late = await haggle.connected("/late");
  assert.equal((await ask(late, "hi", 7)).code, "unauthenticated");
  const hello = event(late, "connected");
  assert.equal((await ask(late, "authenticate", { token: ann.token })).data.userId, "ann");
  assert.equal((await hello)[0].userId, "ann");
  assert.equal(await ask(late, "hi", 7), 7);
}

await play(
  {},
  async (haggle) => {
    const [ann, bob] = [haggle.user("ann"), haggle.user("bob")];
    for (const [name, transports] of TRANSPORTS) {
      await step(`events, binary and acks both ways: ${name}`, () => echoes(haggle, ann, transports));
    }
    await step("a core event under the plugin's names", () => names(haggle, ann, bob));
    await step("who comes in", () => entrances(haggle, ann));
  },
  config,
);
