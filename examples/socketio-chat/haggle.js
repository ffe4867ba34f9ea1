// What the stories share: a server of their own in a temporary directory, its users, and sockets that are closed at the end.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { io } from "socket.io-client";

export const PATIENCE = 20_000;
const bin = process.env.HAGGLE_BIN ?? "haggle";
const plugins = process.env.HAGGLE_PLUGINS ?? path.resolve("../../target/example-plugins");

export const TRANSPORTS = [
  ["polling, then upgrade", ["polling", "websocket"]],
  ["websocket only", ["websocket"]],
  ["polling only", ["polling"]],
];

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export const within = (promise, what, patience = PATIENCE) => {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`timed out: ${what}`)), patience);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
};

// The next event of that name which fits.
export const event = (socket, name, fits = () => true) =>
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

const freePort = () =>
  new Promise((resolve, reject) => {
    const server = net.createServer();
    server.on("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });

// A running server; `settings` are environment variables, `config` is the text of its configuration file.
export class Haggle {
  sockets = [];

  static async start(settings = {}, config = "") {
    const haggle = new Haggle();
    haggle.dir = mkdtempSync(path.join(tmpdir(), "haggle-socketio-"));
    haggle.env = {
      ...process.env,
      HAGGLE__AUTH__DEV: "true",
      HAGGLE__LIMITS__RATE_PER_SECOND: "1000000",
      HAGGLE__LIMITS__RATE_BURST: "1000000",
      ...settings,
    };
    const [port, admin] = [await freePort(), await freePort()];
    haggle.url = `http://127.0.0.1:${port}`;
    const file = path.join(haggle.dir, "haggle.toml");
    writeFileSync(file, config);
    const args = ["serve", "--config", file, "--plugins", plugins, "--data", haggle.dir, "--listen", `127.0.0.1:${port}`, "--admin", `127.0.0.1:${admin}`];
    haggle.process = spawn(bin, args, { env: haggle.env, stdio: ["ignore", "ignore", "inherit"] });
    haggle.gone = new Promise((resolve) => haggle.process.once("exit", resolve));
    try {
      await within(haggle.ready(admin), "the server becomes ready", 120_000);
    } catch (error) {
      await haggle.stop();
      throw error;
    }
    return haggle;
  }

  async ready(admin) {
    for (;;) {
      if (this.process.exitCode !== null) throw new Error("the server ended");
      const answer = await fetch(`http://127.0.0.1:${admin}/readyz`).catch(() => undefined);
      if (answer?.ok) return;
      await sleep(100);
    }
  }

  async stop() {
    this.sockets.forEach((socket) => socket.close());
    this.process.kill("SIGTERM");
    const timer = setTimeout(() => this.process.kill("SIGKILL"), 15_000);
    await this.gone;
    clearTimeout(timer);
    rmSync(this.dir, { recursive: true, force: true });
  }

  // The login of a story.
  user(id) {
    const token = execFileSync(bin, ["token", id, "--data", this.dir], { env: this.env, encoding: "utf8" }).trim();
    return { id, token };
  }

  open(namespace, options = {}) {
    const { url = this.url, ...rest } = options;
    const socket = io(url + namespace, { forceNew: true, reconnection: false, ...rest });
    this.sockets.push(socket);
    return socket;
  }

  async connected(namespace, options) {
    const socket = this.open(namespace, options);
    await within(
      new Promise((resolve, reject) => {
        socket.once("connect", resolve);
        socket.once("connect_error", reject);
      }),
      `connect to ${namespace}`,
    );
    return socket;
  }

  refused(namespace, options) {
    const socket = this.open(namespace, options);
    return within(
      new Promise((resolve, reject) => {
        socket.once("connect_error", resolve);
        socket.once("connect", () => reject(new Error("it connected")));
      }),
      `refusal of ${namespace}`,
    );
  }

  async rest(user, method, route, body) {
    const response = await fetch(this.url + route, {
      method,
      headers: { authorization: `Bearer ${user.token}`, "content-type": "application/json" },
      body: body && JSON.stringify(body),
    });
    const text = await response.text();
    assert.ok(response.ok, `${method} ${route}: ${response.status} ${text}`);
    return text ? JSON.parse(text) : undefined;
  }
}

// A wire between client and server that can be cut: connections break off without a word, and no new ones are taken.
export class Wire {
  pairs = new Set();
  isCut = false;

  static async to(url) {
    const wire = new Wire();
    const { port } = new URL(url);
    wire.server = net.createServer((near) => {
      if (wire.isCut) return near.destroy();
      const far = net.connect(Number(port), "127.0.0.1");
      const pair = [near, far];
      wire.pairs.add(pair);
      for (const [one, other] of [pair, [far, near]]) {
        one.on("error", () => {});
        one.on("close", () => {
          other.destroy();
          wire.pairs.delete(pair);
        });
        one.pipe(other);
      }
    });
    await new Promise((resolve) => wire.server.listen(0, "127.0.0.1", resolve));
    wire.url = `http://127.0.0.1:${wire.server.address().port}`;
    return wire;
  }

  cut() {
    this.isCut = true;
    this.pairs.forEach((pair) => pair.forEach((end) => end.destroy()));
  }

  mend() {
    this.isCut = false;
  }

  close() {
    this.cut();
    this.server.close();
  }
}

export async function step(name, work) {
  const start = Date.now();
  await work();
  console.log(`ok  ${name} (${Date.now() - start} ms)`);
}

// Plays a story against a server, and ends the process with how it went.
export async function play(settings, story, config) {
  let failed = false;
  const haggle = await Haggle.start(settings, config);
  try {
    await story(haggle);
  } catch (error) {
    failed = true;
    console.error(error);
  } finally {
    await haggle.stop();
  }
  process.exit(failed ? 1 : 0);
}
