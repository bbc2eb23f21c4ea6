// A workflow waits for a person. The promise it waits for is settled by another program, which knows its id.
//
// Run it as `node approval.ts` in one terminal. It prints what to run in another one.

import { type Context, Resonate } from "@resonatehq/sdk";

const url = process.env.RESONATE_URL ?? "http://localhost:8001";

function* expense(context: Context, euros: number) {
  const decision = yield* context.promise<boolean>({ timeout: 3 * 86_400_000 });
  yield* context.run(ask, euros, decision.id);
  return `${euros} EUR ${(yield* decision) ? "approved" : "declined"}`;
}

function ask(_: Context, euros: number, id: string) {
  console.log(`may we spend ${euros} EUR? node approval.ts ${id}`);
}

export async function run(resonate: Resonate, id: string): Promise<string> {
  resonate.register(expense);
  return resonate.run(id, expense, 250);
}

if (process.argv[1] === import.meta.filename) {
  // Who decides is in another group: the workers of a group are those that know its functions.
  const resonate = new Resonate({ url, group: process.argv[2] ? "people" : "default" });
  if (process.argv[2]) {
    // What a promise holds is JSON, in base64.
    await resonate.promises.resolve(process.argv[2], { data: btoa(JSON.stringify(true)) });
  } else {
    console.log(await run(resonate, "expense-7-ts"));
  }
  await resonate.stop();
}
