// A client of wheeltimer in Node, with nothing but its standard library, written from protocol.md.
//
//   node client.mjs HOST PORT COUNT
//
// schedules COUNT tasks in one group, moves some, cancels some, finishes the rest by their group, and watches
// by subscription that each was scheduled once and ended once. It connects again when the daemon goes away,
// also in the middle: what does no harm twice is sent again, the subscription goes on from its last cursor.
// Copy `Client` and `subscribe` into your own program; `main` shows how they are used.

import net from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

const PATIENCE_MS = 60_000; // how long a daemon may be away
const DEPTH = 500; // requests that wait for their answer at most

/** The daemon refused; `reply` holds its `error`, `message` and whatever more it says. */
export class Refused extends Error {
  constructor(reply) {
    super(`${reply.error}: ${reply.message}`);
    this.reply = reply;
  }
}

/** The connection was lost before the answer came, and asking again could do harm. */
export class OutcomeUnknown extends Error {}

/** Call `line` for each line that comes; a last one without its end is none. */
function onLines(socket, line) {
  let rest = "";
  socket.setEncoding("utf8");
  socket.on("data", (text) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    lines.forEach(line);
  });
}

/** Wait before the n-th try to connect: 50 ms, doubled each time, up to a second. */
const backoff = (tries) => sleep(Math.min(1000, 50 * 2 ** tries));

/** One connection for requests; answers come in the order in which they were sent. */
export class Client {
  #calls = []; // without an answer, in order
  #socket = null; // null while there is no connection
  #closed = false;
  lost = 0; // connections

  constructor(host, port) {
    this.host = host;
    this.port = port;
    this.#connect();
  }

  close() {
    this.#closed = true;
    this.#socket?.destroy();
  }

  /** Ask once. `again`: whether the same request may be sent twice, where the first answer was lost. */
  ask(op, fields, again) {
    return new Promise((resolve, reject) => {
      const call = { line: JSON.stringify({ op, ...fields }) + "\n", again, sent: false, resolve, reject };
      this.#calls.push(call);
      if (this.#socket) this.#send([call]);
    });
  }

  /** Ask until the daemon has room and is not about to stop; other refusals are thrown. */
  async sure(op, fields, again) {
    for (;;) {
      const reply = await this.ask(op, fields, again);
      if (reply.ok) return reply;
      if (reply.error === "full") await sleep(reply.retry_after_ms ?? 1000);
      else if (reply.error === "draining") await sleep(1000);
      else throw new Refused(reply);
    }
  }

  #send(calls) {
    for (const call of calls) call.sent = true;
    this.#socket.write(calls.map((call) => call.line).join(""));
  }

  async #connect() {
    const until = Date.now() + PATIENCE_MS;
    for (let tries = 0; !this.#closed; tries++) {
      const socket = net.connect(this.port, this.host);
      const up = await new Promise((resolve) => {
        socket.once("connect", () => resolve(true));
        socket.once("error", () => resolve(false));
      });
      if (up) {
        socket.setNoDelay(true);
        socket.on("error", () => {}); // "close" follows
        socket.once("close", () => this.#lose());
        onLines(socket, (line) => this.#take(JSON.parse(line)));
        this.#socket = socket;
        this.#send(this.#calls);
        return;
      }
      if (Date.now() > until) {
        for (const call of this.#calls.splice(0)) call.reject(new OutcomeUnknown("no daemon answers"));
        return;
      }
      await backoff(tries);
    }
  }

  #take(reply) {
    // Storage failed: whether it is stored is unknown, and the connection ends. Ask the next daemon.
    if (reply.error === "storage" && this.#calls[0].again) return;
    this.#calls.shift().resolve(reply);
  }

  #lose() {
    this.#socket = null;
    if (this.#closed) return;
    this.lost++;
    for (const call of this.#calls.filter((call) => call.sent && !call.again))
      call.reject(new OutcomeUnknown("the connection was lost"));
    this.#calls = this.#calls.filter((call) => call.again || !call.sent);
    this.#connect();
  }
}

/** Events from `from` on (a cursor; undefined: from now), each once, over lost connections; calls `begun` at first. */
export async function* subscribe(host, port, filter, from, begun = () => {}) {
  let cursor = from;
  let until = Date.now() + PATIENCE_MS;
  for (let tries = 0; ; tries++) {
    const socket = net.connect(port, host, () => {
      socket.setKeepAlive(true, 30_000); // notices a peer that is no more, while nothing happens
      socket.write(JSON.stringify({ op: "subscribe", ...filter, from: cursor }) + "\n");
    });
    const lines = [];
    let wake = () => {};
    let over = false;
    onLines(socket, (line) => (lines.push(line), wake()));
    socket.on("error", () => {});
    socket.once("close", () => ((over = true), wake()));
    try {
      for (let first = true; ; first = false) {
        while (!lines.length && !over) await new Promise((resolve) => (wake = resolve));
        if (!lines.length) break;
        const said = JSON.parse(lines.shift());
        if (said.event) {
          cursor = said.cursor;
          yield said;
        } else if (said.ok) {
          cursor ??= said.cursor;
          tries = 0;
          until = Date.now() + PATIENCE_MS;
          begun();
        } else if (first && said.error !== "storage" && said.error !== "full") {
          throw new Refused(said); // lagged at once: events are lost; said.cursor is the oldest there is
        } else break; // too slow: what was not sent is in the journal
      }
    } finally {
      socket.destroy();
    }
    if (Date.now() > until) throw new OutcomeUnknown("no daemon answers");
    await backoff(tries);
  }
}

/** Do `work` for each of `items`, at most DEPTH at a time. */
async function each(items, work) {
  const left = items[Symbol.iterator]();
  const workers = Array.from({ length: DEPTH }, async () => {
    for (const item of left) await work(item);
  });
  await Promise.all(workers);
}

async function main(host, port, count) {
  const group = `node-${process.pid}-${Date.now()}`;
  const ids = Array.from({ length: count }, (_, number) => `${group}-${number}`);
  const client = new Client(host, port);
  const seen = new Map(ids.map((id) => [id, { scheduled: 0, rescheduled: 0, done: 0, cancelled: 0 }]));
  let begun;
  const ready = new Promise((resolve) => (begun = resolve));
  const watched = (async () => {
    let ended = 0;
    for await (const event of subscribe(host, port, { group, types: ["task.*"] }, undefined, begun)) {
      const kind = event.event.slice("task.".length);
      seen.get(event.id)[kind]++;
      if (kind === "done" || kind === "cancelled") ended++;
      if (ended === count) return;
    }
  })();
  await ready;

  const said = { duplicates: 0, rescheduled: 0, cancelled: 0, finished: 0 };
  // With an id of our own the same schedule can be sent twice: the second is a duplicate, not a second task.
  await each(ids, async (id) => {
    const task = { id, group, url: "http://127.0.0.1:9/", delay: "1h", body: { id } };
    if ((await client.sure("schedule", task, true)).duplicate) said.duplicates++;
  });
  // With if_version so can a reschedule: the second is a conflict with the version that the first one made.
  await each(ids.filter((_, number) => number % 10 === 0), async (id) => {
    const reply = await client.ask("reschedule", { id, delay: "2h", if_version: 1 }, true);
    if (!reply.ok && !(reply.error === "conflict" && reply.version === 2)) throw new Refused(reply);
    said.rescheduled++;
  });
  await each(ids.filter((_, number) => number % 3 === 0), async (id) => {
    await client.sure("cancel", { id }, true);
    said.cancelled++;
  });
  // Asked again, finish counts what is done already as 0: what it did before is in the events.
  said.finished = (await client.sure("finish", { group, reply: { paid: true } }, true)).finished;
  await watched;

  const wrong = ids.filter((id, number) => {
    const task = seen.get(id);
    const ends = number % 3 === 0 ? task.cancelled === 1 && !task.done : task.done === 1 && !task.cancelled;
    return !(ends && task.scheduled === 1 && task.rescheduled === (number % 10 === 0 ? 1 : 0));
  });
  client.close();
  console.log(JSON.stringify({ group, tasks: count, ...said, lost: client.lost, wrong }));
  return wrong.length ? 1 : 0;
}

if (process.argv[1]?.endsWith("client.mjs")) {
  const [host, port, count] = process.argv.slice(2);
  process.exitCode = await main(host, Number(port), Number(count));
}
