/** The page of a server: it shows in a browser what `tproxy top` shows on a terminal. */

import { type Counted, History, sampleMs } from "./history.ts";

/** A server as far as the page samples it. */
export interface PageServer {
  readonly pool: { counters(): Counted };
}

/** Answers a request for the data of the page. */
export type Reader = (request: Request) => Promise<Response> | Response;

/** The data that the page reads beside its own files and its history. */
const readPaths = ["/v1/events", "/v1/log"];
/** The paths of `assets.ts`, which is not loaded before it is needed. */
const filePaths = ["/", "/app.js", "/style.css", "/uplot.js", "/uplot.css"];

export class Page {
  private readonly history = new History();
  private readonly read: Reader;
  private readonly timer: ReturnType<typeof setInterval>;

  /** Takes a sample of the server every second until `close`. `read` changes nothing. */
  constructor(server: PageServer, read: Reader) {
    this.read = read;
    const sample = () => this.history.push(Date.now(), server.pool.counters());
    sample();
    this.timer = setInterval(sample, sampleMs);
    this.timer.unref();
  }

  /** The answer to a request for `path`; undefined: there is nothing of the page. */
  answer(request: Request, path: string): Promise<Response> | Response | undefined {
    if (filePaths.includes(path)) return file(path);
    if (readPaths.includes(path)) return this.read(request);
    if (path !== "/v1/history") return undefined;
    return Response.json({ samples: this.history.samples });
  }

  close(): void {
    clearInterval(this.timer);
  }
}

async function file(path: string): Promise<Response> {
  const { assets } = await import("./assets.ts");
  const { text, type } = assets[path as keyof typeof assets];
  return new Response(text, { headers: { "content-type": type } });
}
