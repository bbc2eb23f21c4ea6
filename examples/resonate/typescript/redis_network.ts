// Resonate's TypeScript SDK straight on Redis: what its server would do, the scripts of durasleep do.
//
//   npm install @resonatehq/sdk redis
//   python -m durasleep.protocol.script lua      writes the scripts of the installed durasleep into the folder `lua`
//   durasleep init                               makes the namespace, if it is new
//
//   const network = new RedisNetwork({ url: "redis://localhost:6379", scripts: "lua", group: "default" });
//   const resonate = new Resonate({ network, group: "default", pid: network.pid });
//
// Gateways and other programs may use the namespace at the same time. Schedules need a gateway.

import { createHash, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import type { Network } from "@resonatehq/sdk";
import { createClient } from "redis";

const RETAIN_MS = 60_000; // between two looks for what has settled long ago
const WAIT_MS = 60_000; // at most, if no hint comes
const LATE_MS = 5; // a gateway that looks on time makes what is due of schedules

type Options = { url: string; scripts: string; group?: string; namespace?: string };

export class RedisNetwork implements Network {
  readonly pid = randomUUID();
  readonly unicast: string;
  readonly anycast: string;
  #redis;
  #listener;
  #own: string;
  #namespace: string;
  #scripts: Record<string, { text: string; sha: string }> = {};
  #receivers: ((message: any) => void)[] = [];
  #hint = () => {};
  #isHinted = false;
  #isStopped = false;
  #opened: Promise<void> | undefined;

  /** The namespace must have one partition. */
  constructor({ url, scripts, group = "default", namespace = "durasleep" }: Options) {
    this.#redis = createClient({ url });
    this.#listener = this.#redis.duplicate();
    this.#own = `{${namespace}:0}:r:`;
    this.#namespace = namespace;
    this.unicast = `poll://uni@${group}/${this.pid}`;
    this.anycast = `poll://any@${group}`;
    for (const name of ["rpc", "tick", "take", "retain"]) {
      const text = readFileSync(`${scripts}/resonate_${name}.lua`, "utf8");
      this.#scripts[name] = { text, sha: createHash("sha1").update(text).digest("hex") };
    }
  }

  match(target: string): string {
    return `poll://any@${target}`;
  }

  recv(callback: (message: any) => void): void {
    this.#receivers.push(callback);
  }

  async init(): Promise<void> {
    await this.#open();
    for (const work of [this.#listen, this.#deliver, this.#retain]) void this.#keep(work);
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    this.#wake();
    for (const client of [this.#redis, this.#listener]) if (client.isOpen) client.destroy();
  }

  send = async (request: any): Promise<any> => JSON.parse((await this.#call("rpc", JSON.stringify(request), "", ""))[1]);

  #open(): Promise<void> {
    return (this.#opened ??= (async () => {
      for (const client of [this.#redis, this.#listener]) client.on("error", () => {}); // it connects again by itself
      await Promise.all([this.#redis.connect(), this.#listener.connect()]);
      const partitions = await this.#redis.hGet(`{${this.#namespace}}:meta`, "partitions");
      if (partitions === null) throw new Error(`there is no namespace ${this.#namespace}: durasleep init makes it`);
      if (partitions !== "1") throw new Error(`the namespace has ${partitions} partitions: this needs one`);
    })());
  }

  async #call(name: string, ...args: string[]): Promise<any> {
    await this.#open();
    const { text, sha } = this.#scripts[name];
    const keysAndArguments = { keys: [this.#own, `${this.#own}timers`], arguments: args };
    return this.#redis.evalSha(sha, keysAndArguments).catch((error: Error) => {
      if (!error.message.startsWith("NOSCRIPT")) throw error;
      return this.#redis.eval(text, keysAndArguments);
    });
  }

  // Go on when Redis is back.
  async #keep(work: () => Promise<void>): Promise<void> {
    while (!this.#isStopped) {
      await work.call(this).catch(() => new Promise((resolve) => setTimeout(resolve, 1000)));
    }
  }

  // A script has written that something is ready, or due earlier.
  async #listen(): Promise<void> {
    for (let id = "0"; !this.#isStopped; this.#wake()) {
      const found: any = await this.#listener.xRead({ key: `${this.#own}wake`, id }, { BLOCK: 5000 });
      id = found?.[0].messages.at(-1).id ?? id;
    }
  }

  #wake(): void {
    this.#isHinted = true;
    this.#hint();
  }

  // Do what is due, take what is ready, and wait until something else is.
  async #deliver(): Promise<void> {
    while (!this.#isStopped) {
      this.#isHinted = false;
      const [now, , , next] = await this.#call("tick", "100", "");
      const taken: string[][] = await this.#call("take", "16", "", this.anycast, this.unicast);
      const bodies = taken.flatMap((messages) => messages.filter((_, at) => at % 2 === 1));
      for (const body of bodies) for (const receive of this.#receivers) receive(JSON.parse(body));
      const waitMs = next === "" ? WAIT_MS : Math.max(0, Number(next) - Number(now)) + LATE_MS;
      if (bodies.length === 0 && !this.#isHinted) {
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, Math.min(waitMs, WAIT_MS));
          this.#hint = () => (clearTimeout(timer), resolve());
        });
      }
    }
  }

  async #retain(): Promise<void> {
    await this.#call("retain", "100", "");
    await new Promise((resolve) => setTimeout(resolve, RETAIN_MS).unref());
  }
}
