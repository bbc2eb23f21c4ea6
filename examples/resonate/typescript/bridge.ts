// Functions of this program for workflows of durasleep, and a function of durasleep for this program.
//
// `durasleep serve --bridge pictures` lets workflows of durasleep call the functions of group `pictures`. Run this file as
// `node bridge.ts worker` for them, and as `node bridge.ts` to call a task of durasleep.

import { type Context, Resonate } from "@resonatehq/sdk";

const url = process.env.RESONATE_URL ?? "http://localhost:8001";

// A generator function fails at its first error. A plain function would be called again and again.
function* resize(_: Context, picture: { name: string }, width: number) {
  if (width > 1000) throw new RangeError(`${picture.name} cannot be so wide`);
  return { ...picture, width };
}

export function serve(resonate: Resonate): void {
  resonate.register(resize);
}

export async function run(resonate: Resonate, id: string, price: number): Promise<number> {
  return resonate.rpc<number>(id, "add_tax", price, resonate.options({ target: "durasleep://workers" }));
}

if (process.argv[1] === import.meta.filename) {
  if (process.argv[2] === "worker") {
    serve(new Resonate({ url, group: "pictures" }));
  } else {
    const resonate = new Resonate({ url });
    const price = Number(process.argv[2] ?? 100);
    try {
      console.log(`with tax: ${await run(resonate, `price-${price}-ts`, price)}`);
    } catch (error) {
      console.log(`failed: ${error}`);
    }
    await resonate.stop();
  }
}
