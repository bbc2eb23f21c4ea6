// A workflow sleeps. Nothing is held in memory meanwhile: the process may end, and another one goes on.
// Here with async and await; the other examples are generators.

import { type Context, Resonate } from "@resonatehq/sdk/async";

async function trial(ctx: Context, user: string, pauseMs: number) {
  await ctx.run(mail, user, "Welcome!");
  await ctx.sleep(pauseMs);
  return ctx.run(mail, user, "Your trial ends.");
}

async function mail(_: Context, user: string, text: string) {
  return `${user} was told: ${text}`;
}

export async function run(resonate: Resonate, id: string): Promise<string> {
  resonate.register(trial);
  return (await resonate.run(id, trial, "ada", 1000)).result();
}

if (process.argv[1] === import.meta.filename) {
  const resonate = new Resonate({ url: process.env.RESONATE_URL ?? "http://localhost:8001" });
  console.log(await run(resonate, "trial-ada-ts"));
  await resonate.stop();
}
