// An unmodified socket.io-client against the real server: two users chat, and everything a client meets on the way.
//
//     HAGGLE_BIN=path/to/haggle node story.js
//
// starts a server of its own in a temporary directory and ends it. Every step is asserted; the exit code says how it went.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { io } from "socket.io-client";

const PATIENCE = 20_000;
const bin = process.env.HAGGLE_BIN ?? "haggle";
const dir = mkdtempSync(path.join(tmpdir(), "haggle-socketio-"));
const env = {
  ...process.env,
  HAGGLE__LIMITS__RATE_PER_SECOND: "1000000",
  HAGGLE__LIMITS__RATE_BURST: "1000000",
  HAGGLE__SOCKETIO__ECHO_NAMESPACES: "/echo",
  HAGGLE__SOCKETIO__PING_INTERVAL_MS: "1000",
};

const freePort = () =>
  new Promise((resolve, reject) => {
    const server = net.createServer();
    server.on("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const within = (promise, what) =>
  Promise.race([promise, sleep(PATIENCE).then(() => Promise.reject(new Error(`timed out: ${what}`)))]);

// The next event of that name which fits.
const event = (socket, name, fits = () => true) =>
  within(
    new Promise((resolve) => {
      const listen = (...args) => {
        if (!fits(...args)) return;
        socket.off(name, listen);
        resolve(args[0]);
      };
      socket.on(name, listen);
    }),
    `event ${name}`,
  );

const token = (user) => execFileSync(bin, ["token", user, "--data", dir], { env, encoding: "utf8" }).trim();

let url;
const sockets = [];

const open = (namespace, options = {}) => {
  const socket = io(url + namespace, { forceNew: true, reconnection: false, ...options });
  sockets.push(socket);
  return socket;
};

const connected = async (namespace, options) => {
  const socket = open(namespace, options);
  await within(
    new Promise((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("connect_error", reject);
    }),
    `connect to ${namespace}`,
  );
  return socket;
};

const refused = (namespace, options) => {
  const socket = open(namespace, options);
  return within(
    new Promise((resolve, reject) => {
      socket.once("connect_error", resolve);
      socket.once("connect", () => reject(new Error("it connected")));
    }),
    `refusal of ${namespace}`,
  );
};

const rest = async (user, method, route, body) => {
  const response = await fetch(url + route, {
    method,
    headers: { authorization: `Bearer ${user.token}`, "content-type": "application/json" },
    body: body && JSON.stringify(body),
  });
  const text = await response.text();
  assert.ok(response.ok, `${method} ${route}: ${response.status} ${text}`);
  return text ? JSON.parse(text) : undefined;
};

const TRANSPORTS = [
  ["polling, then upgrade", ["polling", "websocket"]],
  ["websocket only", ["websocket"]],
  ["polling only", ["polling"]],
];

// The document's "Socket Event Testing", its login being `haggle token`.
async function story(ann, bob, transports) {
  const one = await connected("/chat", { auth: { token: ann.token }, transports });
  const two = await connected("/chat", { auth: { token: bob.token }, transports });

  const shown = [event(one, "new_conversation"), event(two, "new_conversation")];
  const body = { participants: [bob.id], type: "group", groupName: "Testing" };
  const conversation = await rest(ann, "POST", "/api/conversations", body);
  for (const { conversation: seen } of await Promise.all(shown)) {
    assert.equal(seen._id, conversation._id);
    assert.deepEqual([...seen.participants].sort(), [ann.id, bob.id].sort());
  }

  const created = [event(one, "new_message"), event(two, "new_message")];
  const received = event(two, "message_received");
  const updated = event(two, "conversation_updated", (said) => said.lastMessage === "Hello!");
  const message = await rest(ann, "POST", `/api/conversations/${conversation._id}/messages`, { content: "Hello!", type: "text" });
  for (const said of await Promise.all(created)) {
    assert.equal(said.conversationId, conversation._id);
    assert.equal(said.message._id, message._id);
    assert.equal(said.message.content, "Hello!");
    assert.equal(said.seq, message.seq);
  }
  assert.equal((await received).message._id, message._id);
  assert.ok((await updated).lastMessageAt);

  const changed = [event(one, "message_updated"), event(two, "message_updated")];
  await rest(ann, "PUT", `/api/messages/${message._id}`, { content: "Hello there!" });
  for (const said of await Promise.all(changed)) assert.equal(said.message.content, "Hello there!");

  await chat(one, two, ann, bob, conversation._id);
  one.close();
  two.close();
}

// The document's client code, with acks where we want to know.
async function chat(one, two, ann, bob, conversationId) {
  for (const socket of [one, two]) {
    const answer = await socket.timeout(PATIENCE).emitWithAck("join_conversation", { conversationId });
    assert.deepEqual(answer, { success: true, data: {} });
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

async function manyInOrder(ann, transports) {
  const one = await connected("/chat", { auth: { token: ann.token }, transports });
  const { _id: conversationId } = await rest(ann, "POST", "/api/conversations", { participants: ["carol"], type: "group", groupName: "Many" });
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

async function echo(transports) {
  const socket = await connected("/echo", { transports });
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

async function namespacesOfOneConnection(ann) {
  const chat = await connected("/chat", { auth: { token: ann.token } });
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

async function wrongTokens() {
  assert.equal((await refused("/chat")).message, "No token provided");
  assert.equal((await refused("/chat", { auth: { token: "a.b.c" } })).message, "Invalid token");
  assert.equal((await refused("/", {})).message, "Invalid namespace");
}

async function comesBackAfterACut(ann) {
  const socket = await connected("/chat", { auth: { token: ann.token }, reconnection: true, reconnectionDelay: 50 });
  const before = socket.id;
  const cut = event(socket, "disconnect");
  const back = event(socket, "connect");
  socket.io.engine.close();
  await cut;
  if (!socket.active) socket.connect();
  await back;
  assert.notEqual(socket.id, before);
  socket.close();
}

async function staysOverSomePings() {
  for (const [, transports] of TRANSPORTS) {
    const socket = await connected("/echo", { transports });
    const pings = new Promise((resolve) => {
      let count = 0;
      socket.io.on("ping", () => ++count === 2 && resolve());
    });
    await within(pings, "two pings");
    assert.ok(socket.connected);
    socket.close();
  }
}

async function step(name, work) {
  const start = Date.now();
  await work();
  console.log(`ok  ${name} (${Date.now() - start} ms)`);
}

const [port, admin] = [await freePort(), await freePort()];
url = `http://127.0.0.1:${port}`;
const args = ["serve", "--dev", "--data", dir, "--listen", `127.0.0.1:${port}`, "--admin", `127.0.0.1:${admin}`];
const server = spawn(bin, args, { env, stdio: ["ignore", "ignore", "inherit"] });
const gone = new Promise((resolve) => server.once("exit", resolve));
let failed = false;
try {
  const ready = async () => {
    for (;;) {
      if (server.exitCode !== null) throw new Error("the server ended");
      const answer = await fetch(`http://127.0.0.1:${admin}/readyz`).catch(() => undefined);
      if (answer?.ok) return;
      await sleep(100);
    }
  };
  await Promise.race([ready(), sleep(120_000).then(() => Promise.reject(new Error("the server did not become ready")))]);
  const [ann, bob] = ["ann", "bob"].map((id) => ({ id, token: token(id) }));
  for (const [name, transports] of TRANSPORTS) {
    await step(`the story: ${name}`, () => story(ann, bob, transports));
    await step(`2,000 messages in order: ${name}`, () => manyInOrder(ann, transports));
    await step(`events, binary and acks both ways: ${name}`, () => echo(transports));
  }
  await step("namespaces of one connection, one of them invalid", () => namespacesOfOneConnection(ann));
  await step("no token, a wrong token, a wrong namespace", wrongTokens);
  await step("a client comes back after a cut", () => comesBackAfterACut(ann));
  await step("clients stay over some pings", staysOverSomePings);
} catch (error) {
  failed = true;
  console.error(error);
} finally {
  sockets.forEach((socket) => socket.close());
  server.kill("SIGTERM");
  await Promise.race([gone, sleep(15_000).then(() => server.kill("SIGKILL"))]);
  rmSync(dir, { recursive: true, force: true });
}
process.exit(failed ? 1 : 0);
