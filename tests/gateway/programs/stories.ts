// Runs examples of Resonate's TypeScript SDK at the same time in one process, and prints how each of them ended.
//
// It lies beside a copy of the examples; the arguments are a prefix for their ids, and their names. Each instance has a
// group of its own, since each worker of a group must know the functions of all.

import { Resonate } from "@resonatehq/sdk";
import { Resonate as AsyncResonate } from "@resonatehq/sdk/async";

const [prefix, ...names] = process.argv.slice(2);
const resonate = new Resonate(); // RESONATE_URL says where
const withAsync = new AsyncResonate({ group: "async" });
const pictures = new Resonate({ group: "pictures" });
(await import("./rpc_by_group.ts")).serve(pictures);

async function run(name: string) {
  const story = await import(`./${name}.ts`);
  const result = await story.run(name === "sleep" ? withAsync : resonate, `${prefix}-${name}`);
  console.log(JSON.stringify({ [name]: result }));
}

await Promise.all(names.map(run));
await Promise.all([resonate.stop(), withAsync.stop(), pictures.stop()]);
