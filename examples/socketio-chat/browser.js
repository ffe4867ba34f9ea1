// A page in a real browser, from another origin than the server: what CORS lets through and what it does not.
//
// The pages are served here, on two ports of this machine: to a browser, two origins. One of them is in `auth.origins`. Each
// page loads socket.io-client's own bundle, connects, and posts what it saw to where it came from. Chromium needs no driver.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import http from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";
import { play, step, within } from "./haggle.js";

const PAGE_MS_MAX = 60_000;
const BROWSERS = ["chromium", "chromium-browser", "google-chrome"];
const library = readFileSync(
  path.join(path.dirname(createRequire(import.meta.url).resolve("socket.io-client/package.json")), "dist/socket.io.js"),
);

// What runs in the page, as text: it sees nothing of this file but its two arguments.
async function inThePage(server, token) {
  const attempt = (options) =>
    new Promise((resolve) => {
      const socket = io(`${server}/chat`, { forceNew: true, reconnection: false, withCredentials: true, timeout: 15000, ...options });
      const seen = { connected: false, transports: [] };
      const done = (more) => {
        resolve({ ...seen, ...more });
        socket.close();
      };
      socket.io.once("open", () => {
        const { engine } = socket.io;
        seen.transports.push(engine.transport.name);
        engine.on("upgrade", ({ name }) => seen.transports.push(name));
      });
      socket.on("connect_error", (error) => done({ error: error.message }));
      socket.on("connect", async () => {
        seen.connected = true;
        if (!options.transports && seen.transports.length < 2) {
          await new Promise((upgraded) => socket.io.engine.once("upgrade", upgraded));
        }
        const answer = await socket.timeout(15000).emitWithAck("user_online", { isOnline: true });
        done({ answer });
      });
    });
  const auth = { token };
  const extraHeaders = { Authorization: `Bearer ${token}` };
  const report = {
    origin: location.origin,
    upgraded: await attempt({ auth }),
    polling: await attempt({ auth, transports: ["polling"] }),
    websocket: await attempt({ auth, transports: ["websocket"] }),
    preflighted: await attempt({ extraHeaders, transports: ["polling"] }),
    withoutToken: await attempt({ transports: ["polling"] }),
  };
  await fetch("/report", { method: "POST", body: JSON.stringify(report) });
}

// One origin. Its port is known before the page is, since the server must be told of it when it starts.
class Origin {
  page = "";
  reported = new Promise((resolve) => (this.report = resolve));

  static async listen() {
    const origin = new Origin();
    origin.server = http.createServer((request, response) => origin.answer(request, response));
    await new Promise((resolve) => origin.server.listen(0, "127.0.0.1", resolve));
    origin.url = `http://127.0.0.1:${origin.server.address().port}`;
    return origin;
  }

  show(server, token) {
    this.page = `<!doctype html><script src="/socket.io.js"></script><script>
      (${inThePage})(${JSON.stringify(server)}, ${JSON.stringify(token)})
        .catch((error) => fetch("/report", { method: "POST", body: JSON.stringify({ failed: String(error) }) }));
    </script>`;
  }

  answer(request, response) {
    if (request.url === "/socket.io.js") return response.setHeader("content-type", "text/javascript").end(library);
    if (request.url === "/") return response.setHeader("content-type", "text/html").end(this.page);
    if (request.url !== "/report") return response.writeHead(404).end();
    let body = "";
    request.on("data", (data) => (body += data));
    request.on("end", () => {
      response.end();
      this.report(JSON.parse(body));
    });
  }
}

async function visit(browser, { url, reported }) {
  const profile = mkdtempSync(path.join(tmpdir(), "haggle-browser-"));
  const args = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-proxy-server"];
  const quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"];
  const child = spawn(browser, [...args, ...quiet, `--user-data-dir=${profile}`, url], { stdio: "ignore", detached: true });
  const failed = new Promise((_, reject) => {
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`the browser ended with ${code}`)));
  });
  try {
    return await within(Promise.race([reported, failed]), `the page at ${url}`, PAGE_MS_MAX);
  } finally {
    failed.catch(() => {});
    // With the processes it has started.
    if (child.exitCode === null) process.kill(-child.pid, "SIGKILL");
    rmSync(profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 });
  }
}

const browser = BROWSERS.find((name) => spawnSync(name, ["--version"], { stdio: "ignore" }).status === 0);
if (!browser) {
  console.log(`left out: no browser (${BROWSERS.join(", ")}) is installed`);
  process.exit(process.env.HAGGLE_NEEDS_BROWSER ? 1 : 0);
}

const [shop, stranger] = [await Origin.listen(), await Origin.listen()];

await play({ HAGGLE__AUTH__ORIGINS: shop.url }, async (haggle) => {
  const { token } = haggle.user("ann");
  for (const origin of [shop, stranger]) origin.show(haggle.url, token);
  await step("a page of an allowed origin", async () => {
    const seen = await visit(browser, shop);
    assert.equal(seen.origin, shop.url, JSON.stringify(seen));
    const answer = { success: true, data: {} };
    assert.deepEqual(seen.upgraded, { connected: true, transports: ["polling", "websocket"], answer });
    assert.deepEqual(seen.polling, { connected: true, transports: ["polling"], answer });
    assert.deepEqual(seen.websocket, { connected: true, transports: ["websocket"], answer });
    // The token came in a header, for which the browser has asked first.
    assert.deepEqual(seen.preflighted, { connected: true, transports: ["polling"], answer });
    assert.deepEqual(seen.withoutToken, { connected: false, transports: ["polling"], error: "No token provided" });
  });
  await step("a page of another origin", async () => {
    const seen = await visit(browser, stranger);
    assert.equal(seen.origin, stranger.url, JSON.stringify(seen));
    for (const way of ["upgraded", "polling", "preflighted", "withoutToken"]) {
      assert.deepEqual(seen[way], { connected: false, transports: [], error: "xhr poll error" }, way);
    }
    assert.deepEqual(seen.websocket, { connected: false, transports: [], error: "websocket error" });
  });
});
