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
    try {
      const answer = await fetch(`${gateway}/v1/groups/${group}:${verb}`, request);
      const text = await answer.text();
      if (answer.status < 500 && ![408, 429].includes(answer.status)) return { status: answer.status, text };
      console.error(text);
    } catch (error) {
      console.error(error.cause?.message ?? error.message);
    }
    await pause(1000); // the same request again finds the same, so it may be repeated
  }
}

async function run({ function: name, args, kwargs, lease }) {
  const stop = new AbortController();
  let isRunning = true;
  (async () => {
    while (await pause((1000 * lease_s) / 3), isRunning) {
      const { status, text } = await ask("heartbeat", { lease });
      if (status === 409 || (status === 200 && JSON.parse(text).canceled)) stop.abort();
    }
  })();
  try {
    const value = await functions[name](args, kwargs, stop.signal);
    const { status, text } = await ask("complete", { lease, value });
    if ([400, 413, 422].includes(status)) // the value is too deep or too large, or cannot be kept: it would be so again
      await ask("fail", { lease, error: { message: text }, retryable: false });
  } catch (error) {
    const said = { type: error?.name, message: String(error?.message ?? error), traceback: error?.stack };
    await ask("fail", { lease, ...(stop.signal.aborted ? { canceled: true } : { error: said }) });
  } finally {
    isRunning = false;
  }
}

const retry = { attempts: 3, delay: "1s" };
const able = { worker, functions: Object.keys(functions), lease_s: Number(lease_s), retry };
for (;;) {
  const { status, text } = await ask("poll", able);
  if (status === 200) await run(JSON.parse(text));
  else if (status !== 204) throw new Error(text);
}
