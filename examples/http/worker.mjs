// A worker in JavaScript, for Node 18 or later, with nothing but `fetch`:
//
//     node worker.mjs http://127.0.0.1:8001 js
//
// Anybody calls its functions by name: durasleep rpc t1 thumbnail '"cat.png"' --target js

const [gateway, group, lease_s = "30"] = process.argv.slice(2);
const worker = `js-${process.pid}`;
const pause = (ms) => new Promise((wake) => setTimeout(wake, ms));

const functions = {
  async thumbnail([name, size = 64], { ms = 20 }, signal) {
    for (let part = 0; part < 3; part++) {
      signal.throwIfAborted(); // it was canceled, or another worker has it
      await pause(ms);
    }
    return { name: `${size}-${name}`, by: worker };
  },
};

async function ask(verb, body) {
  const headers = { "Content-Type": "application/json" };
  const token = process.env.DURASLEEP_GATEWAY_TOKEN;
  if (token) headers.Authorization = `Bearer ${token}`;
  const request = { method: "POST", headers, body: JSON.stringify(body) };
  for (;;) {
    const answer = await fetch(`${gateway}/v1/groups/${group}:${verb}`, request).catch((error) => error);
    if (answer.status < 500) return answer; // the same request again finds the same, so it may be repeated
    console.error(answer.cause?.message ?? answer.statusText);
    await pause(1000);
  }
}

async function run({ function: name, args, kwargs, lease }) {
  const stop = new AbortController();
  const heartbeats = setInterval(async () => {
    const answer = await ask("heartbeat", { lease });
    if (answer.status === 409 || (await answer.json()).canceled) stop.abort();
  }, (1000 * lease_s) / 3);
  try {
    const value = await functions[name](args, kwargs, stop.signal);
    const answer = await ask("complete", { lease, value });
    if (answer.status >= 400 && answer.status !== 409) throw new Error((await answer.json()).detail); // it is too large
  } catch ({ name, message, stack }) {
    const why = stop.signal.aborted ? { canceled: true } : { error: { type: name, message, traceback: stack } };
    await ask("fail", { lease, ...why });
  } finally {
    clearInterval(heartbeats);
  }
}

const retry = { attempts: 3, delay: "1s" };
const able = { worker, functions: Object.keys(functions), lease_s: Number(lease_s), retry };
for (;;) {
  const answer = await ask("poll", able);
  if (answer.status === 200) await run(await answer.json());
  else if (answer.status !== 204) throw new Error(await answer.text());
}
