// A function of another group of workers, called by its name. Its worker may be written in another language.
//
// Run it as `node rpc_by_group.ts worker` in one terminal, and as `node rpc_by_group.ts` in another; or one of them as
// `python rpc_by_group.py`.

import { type Context, Resonate } from "@resonatehq/sdk";

const url = process.env.RESONATE_URL ?? "http://localhost:8001";

function* album(context: Context, pictures: string[]) {
  const resized: string[] = [];
  for (const picture of pictures) {
    resized.push(yield* context.rpc<string>("resize", picture, 100, context.options({ target: "pictures" })));
  }
  return resized;
}

function resize(_: Context, picture: string, width: number) {
  return `${picture} of ${width} pixels`;
}

export function serve(resonate: Resonate): void {
  resonate.register(resize);
}

export async function run(resonate: Resonate, id: string): Promise<string[]> {
  resonate.register(album);
  return resonate.run(id, album, ["sea.png", "sky.png"]);
}

if (process.argv[1] === import.meta.filename) {
  if (process.argv[2] === "worker") {
    serve(new Resonate({ url, group: "pictures" }));
  } else {
    const resonate = new Resonate({ url });
    console.log(await run(resonate, "album-1-ts"));
    await resonate.stop();
  }
}
