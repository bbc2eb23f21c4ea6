// Many functions at the same time, each in its own task, on any worker of the group.

import { type Context, Resonate } from "@resonatehq/sdk";

function* countAll(context: Context, texts: string[]) {
  const counts = [];
  for (const text of texts) counts.push(yield* context.beginRpc(countWords, text));
  let sum = 0;
  for (const count of counts) sum += yield* count;
  return sum;
}

function countWords(_: Context, text: string) {
  return text.split(" ").length;
}

export async function run(resonate: Resonate, id: string): Promise<number> {
  resonate.register(countAll);
  resonate.register(countWords);
  const texts = Array(5).fill(["to be", "or not", "to be, that is the question"]).flat();
  return resonate.rpc(id, countAll, texts);
}

if (process.argv[1] === import.meta.filename) {
  const resonate = new Resonate({ url: process.env.RESONATE_URL ?? "http://localhost:8001" });
  console.log(await run(resonate, "words-1-ts"));
  await resonate.stop();
}
