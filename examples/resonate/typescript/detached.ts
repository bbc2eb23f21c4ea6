// A workflow starts another one and does not wait for it. The other goes on when the first has ended.

import { type Context, Resonate } from "@resonatehq/sdk";

function* order(context: Context, item: string) {
  const { id } = yield* context.detached(survey, item);
  return id;
}

function* survey(context: Context, item: string) {
  yield* context.sleep(500);
  return `how do you like your ${item}?`;
}

export async function run(resonate: Resonate, id: string): Promise<string> {
  resonate.register(order);
  resonate.register(survey);
  const surveyId: string = await resonate.run(id, order, "tea");
  return (await resonate.get<string>(surveyId)).result();
}

if (process.argv[1] === import.meta.filename) {
  const resonate = new Resonate({ url: process.env.RESONATE_URL ?? "http://localhost:8001" });
  console.log(await run(resonate, "order-1-ts"));
  await resonate.stop();
}
