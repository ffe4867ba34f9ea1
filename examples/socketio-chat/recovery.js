// An unmodified socket.io-client is cut off and comes back: with connection state recovery it misses nothing.

import assert from "node:assert/strict";
import { PATIENCE, TRANSPORTS, Wire, event, play, sleep, step } from "./haggle.js";

const KEPT_MS = 4_000;

// A connected client behind a wire, with the messages it has seen.
async function client(haggle, user, transports) {
  const wire = await Wire.to(haggle.url);
  const options = { url: wire.url, auth: { token: user.token }, transports, reconnection: true, reconnectionDelay: 50, reconnectionDelayMax: 200 };
  const socket = await haggle.connected("/chat", options);
  const seen = [];
  socket.on("new_message", ({ message, seq }) => seen.push([message.content, seq]));
  return { wire, socket, seen };
}

async function cut({ wire, socket }) {
  const gone = event(socket, "disconnect");
  wire.cut();
  await gone;
}

async function mend({ wire, socket }) {
  const back = event(socket, "connect");
  wire.mend();
  await back;
}

async function missesNothing(haggle, ann, bob, transports) {
  const { _id: conversationId } = await haggle.rest(ann, "POST", "/api/conversations", { participants: [bob.id], type: "group", groupName: "Cut" });
  const say = (content) => haggle.rest(ann, "POST", `/api/conversations/${conversationId}/messages`, { content, type: "text" });
  const two = await client(haggle, bob, transports);
  const { socket, seen } = two;
  await socket.timeout(PATIENCE).emitWithAck("join_conversation", { conversationId });
  assert.equal(socket.recovered, false);
  const { id } = socket;
  let expect = [];
  for (let round = 0; round < 3; round++) {
    const heard = event(socket, "new_message");
    expect.push((await say(`${round}, connected`)).seq);
    await heard;
    await cut(two);
    for (let n = 0; n < 5; n++) expect.push((await say(`${round}, cut off, ${n}`)).seq);
    await mend(two);
    assert.equal(socket.recovered, true, `round ${round}`);
    assert.equal(socket.id, id);
    assert.deepEqual(seen.map(([, seq]) => seq), expect, "each message once, in order, before anything else");
  }
  const one = await haggle.connected("/chat", { auth: { token: ann.token } });
  const typing = event(socket, "user_typing", (said) => said.isTyping);
  one.emit("typing_start", { conversationId });
  await typing;
  one.close();
  socket.close();
  two.wire.close();
}

async function isNew(haggle, ann, bob) {
  const { _id: conversationId } = await haggle.rest(ann, "POST", "/api/conversations", { participants: [bob.id], type: "direct" });
  // Where the end of a connection is seen at once; without a GET that waits, it takes a ping.
  const two = await client(haggle, bob, ["websocket"]);
  const heard = event(two.socket, "new_message");
  await haggle.rest(ann, "POST", `/api/conversations/${conversationId}/messages`, { content: "seen" });
  await heard;
  const first = two.socket.id;
  const again = event(two.socket, "connect");
  two.socket.disconnect().connect();
  await again;
  assert.deepEqual([two.socket.recovered, two.socket.id === first], [false, false], "it had left by itself");

  await cut(two);
  await sleep(KEPT_MS + 2_000);
  await haggle.rest(ann, "POST", `/api/conversations/${conversationId}/messages`, { content: "not kept" });
  await mend(two);
  assert.equal(two.socket.recovered, false, "its time was over");
  assert.deepEqual(two.seen.map(([content]) => content), ["seen"]);
  two.socket.close();
  two.wire.close();
}

const settings = { HAGGLE__SOCKETIO__RECOVERY_NAMESPACES: "/chat", HAGGLE__SOCKETIO__RECOVERY_MS_MAX: `${KEPT_MS}` };

await play(settings, async (haggle) => {
  const [ann, bob] = [haggle.user("ann"), haggle.user("bob")];
  for (const [name, transports] of TRANSPORTS) {
    await step(`cut off and recovered: ${name}`, () => missesNothing(haggle, ann, bob, transports));
  }
  await step("who left, or was away for too long, is new", () => isNew(haggle, ann, bob));
});
