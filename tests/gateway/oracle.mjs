// The `Server` of npm's @resonatehq/sdk, asked over standard input and output: one JSON line each way.
//
// "new" begins with an empty server. "take" answers with the messages that are still worth delivering since the last
// one: an execute whose task is still pending, once per task, and each unblock. Not those of timers, and none that was
// sent after its deadline. Any other line is a request at `now`.
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const { Server } = await import(pathToFileURL(`${process.argv[2]}/dist/src/network/local.js`));
let server, executes, unblocks;

function begin() {
  server = new Server({ timeoutMode: "eager" });
  executes = new Map();
  unblocks = [];
}

function keep(now, changes) {
  for (const { kind, address, message } of changes) {
    if (kind !== "message.send") continue;
    if (message.kind === "execute") executes.set(message.data.task.id, { now, address });
    else unblocks.push({ now, address, message: structuredClone(message) });
  }
}

function apply(now, req) {
  const { response, changes } = server.apply(now, req);
  keep(now, changes);
  return { status: response.head.status, data: response.data };
}

// A tick fires one occurrence of each schedule: those that a pause has left out follow. What a schedule fires begins a
// lineage of its own, as ours does. Answers with the ids of what was fired.
function tick(now) {
  const before = new Set(server.promises.keys());
  do apply(now, { kind: "debug.tick", head: {}, data: { time: now } });
  while (server.sTimeouts.some((due) => due.timeout <= now));
  const fired = [...server.promises.values()].filter((promise) => !before.has(promise.id));
  for (const { id, tags } of fired)
    Object.assign(tags, { "resonate:origin": id, "resonate:branch": id, "resonate:parent": id });
  return { status: 200, data: fired.map((promise) => promise.id) };
}

function take() {
  const taken = unblocks;
  for (const [id, sent] of executes) {
    const task = server.tasks.get(id);
    const { tags, timeoutAt } = server.promises.get(id);
    if (task.state !== "pending" || tags["resonate:timer"] === "true" || timeoutAt <= sent.now) continue;
    taken.push({ ...sent, message: { kind: "execute", head: {}, data: { task: { id, version: task.version } } } });
  }
  executes = new Map();
  unblocks = [];
  return { status: 200, data: taken };
}

for await (const line of createInterface({ input: process.stdin })) {
  const { what, now, req } = JSON.parse(line);
  let answer = {};
  if (what === "new") begin();
  else if (what === "tick") answer = tick(now);
  else if (what === "take") answer = take();
  else answer = apply(now, req);
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
