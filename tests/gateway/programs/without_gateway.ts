// Resonate's TypeScript SDK on the connector of the examples: the URL of a Redis, a namespace, and the folder of
// scripts.

import { type Context, Resonate } from "@resonatehq/sdk";
import { RedisNetwork } from "./redis_network.ts";
import { serve } from "./rpc_by_group.ts";

const [url, namespace, scripts] = process.argv.slice(2);
const network = new RedisNetwork({ url, namespace, scripts, group: "pictures" });
const resonate = new Resonate({ network, group: "pictures", pid: network.pid });

function* nap(context: Context, number: number) {
  yield* context.sleep(1000);
  return number;
}

serve(resonate); // for without_gateway.py
resonate.register(nap);
const here = resonate.options({ target: "pictures" });
const naps = Array.from({ length: 200 }, (_, number) => resonate.rpc<number>(`ts-nap-${number}`, "nap", number, here));
console.log((await Promise.all(naps)).reduce((sum, number) => sum + number, 0));
