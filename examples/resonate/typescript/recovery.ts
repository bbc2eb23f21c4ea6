// A worker dies in the middle; another one goes on. What has been done is not done again.
//
// Run it as `node recovery.ts slow`, kill it with `kill -9` when it has printed "packing", and run it as
// `node recovery.ts`: it does not charge again.

import { type Context, Resonate } from "@resonatehq/sdk";

function* order(context: Context, item: string) {
  const paid = yield* context.run(charge, item);
  const packed = yield* context.run(pack, item);
  return `${paid}, ${packed}`;
}

function charge(_: Context, item: string) {
  console.log("charging");
  return `${item} is paid`;
}

async function pack(_: Context, item: string) {
  console.log("packing");
  if (process.argv[2] === "slow") await new Promise((resolve) => setTimeout(resolve, 60_000));
  return `${item} is packed`;
}

// A worker that is silent for `ttl` milliseconds loses its tasks to another one of the group.
const url = process.env.RESONATE_URL ?? "http://localhost:8001";
const resonate = new Resonate({ url, group: "orders-ts", ttl: 1000 });
resonate.register(order);
console.log(await resonate.run("order-2-ts", order, "tea"));
await resonate.stop();
