// A function at times that a cron line gives. Here it is each second: six fields begin with the seconds.

import { once, EventEmitter } from "node:events";
import { type Context, Resonate } from "@resonatehq/sdk";

const sent = new EventEmitter();

function report(_: Context, title: string) {
  sent.emit("report", title);
}

export async function run(resonate: Resonate, id: string): Promise<string> {
  resonate.register(report);
  const schedule = await resonate.schedule(id, "* * * * * *", report, "sales");
  const [first] = await once(sent, "report");
  const [second] = await once(sent, "report");
  await schedule.delete();
  return `two reports: ${first}, ${second}`;
}

if (process.argv[1] === import.meta.filename) {
  const resonate = new Resonate({ url: process.env.RESONATE_URL ?? "http://localhost:8001" });
  console.log(await run(resonate, "reports-ts"));
  await resonate.stop();
}
