/** The page in a real browser: Debian's Chromium, under the headers that the process sends. */

import { afterAll, expect } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Browser, chromium, type Page as Tab } from "playwright-core";
import { Page } from "../../src/control/page/page.ts";
import { testWith, which } from "../helpers/tools.ts";
import { statusAfter } from "../helpers/top-status.ts";
import { start } from "../helpers/tproxy.ts";

const testPage = testWith(["chromium"]);
let browser: Browser | undefined;
afterAll(() => browser?.close());

/** The headers of `[metrics]`. */
const headers = {
  "content-security-policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; " +
    "img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
  "x-content-type-options": "nosniff",
};

const hostile = `<img src=x onerror="window.owned = 1"><script>window.owned = 1</script>`;

/** A process that serves the page; its statuses are those of a machine with hostile names. */
class Served {
  private readonly page: Page;
  private server: Bun.Server<undefined>;
  private seconds = 10;
  private readonly streams = new Set<ReturnType<typeof setInterval>>();

  constructor() {
    const counters = { accepted: 0, active: 3, sessions: 0, activeSessions: 0 };
    let amount = 0;
    const sample = () => {
      amount += 1_000;
      return { ...counters, clientBytes: amount, upstreamBytes: 2 * amount };
    };
    this.page = new Page({ pool: { counters: sample } }, async ({ url }) =>
      this.stream(url.includes("/v1/events")),
    );
    this.server = this.serve(0);
  }

  get url(): string {
    return `http://127.0.0.1:${this.server.port}/`;
  }

  /** Ends the listener and all streams. */
  async lose(): Promise<number> {
    const { port } = this.server;
    for (const stream of this.streams) clearInterval(stream);
    await this.server.stop(true);
    return port as number;
  }

  /** Listens again. */
  return(port: number): void {
    this.server = this.serve(port);
  }

  async close(): Promise<void> {
    this.page.close();
    await this.lose();
  }

  private serve(port: number) {
    return Bun.serve({
      // A stream of the log may be silent for longer.
      ...{ hostname: "127.0.0.1", port, idleTimeout: 0 },
      fetch: async (request) => {
        const { pathname } = new URL(request.url);
        const answer = await this.page.answer(request, pathname);
        const response = answer ?? new Response("", { status: 404 });
        for (const [name, value] of Object.entries(headers)) response.headers.set(name, value);
        return response;
      },
    });
  }

  private stream(ofStatuses: boolean): Response {
    let timer: ReturnType<typeof setInterval>;
    const body = new ReadableStream({
      start: (controller) => {
        const send = (event: string, data: object) =>
          controller.enqueue(
            new TextEncoder().encode(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`),
          );
        if (!ofStatuses) {
          send("line", { time: "2026-11-27T12:00:00.000Z", level: "warning", text: hostile });
          return;
        }
        const tick = () => send("status", this.status());
        timer = setInterval(tick, 100);
        this.streams.add(timer);
        tick();
      },
      cancel: () => clearInterval(timer),
    });
    return new Response(body, { headers: { "content-type": "text/event-stream" } });
  }

  private status(): object {
    const status = statusAfter(this.seconds++);
    const [first] = status.connections;
    return {
      ...status,
      services: [...status.services, { ...status.services[0], name: hostile }],
      connections: [{ ...first, client: hostile }, ...status.connections],
    };
  }
}

/** A new tab at the page, and what its console has complained about. */
async function open(url: string): Promise<{ tab: Tab; complaints: string[] }> {
  browser ??= await chromium.launch({
    ...{ executablePath: which("chromium") as string, headless: true },
    args: ["--no-sandbox"],
  });
  const tab = await browser.newPage({ viewport: { width: 1200, height: 900 } });
  const complaints: string[] = [];
  tab.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") complaints.push(message.text());
  });
  tab.on("pageerror", (error) => complaints.push(String(error)));
  await tab.goto(url);
  await tab.waitForSelector("#services table");
  return { tab, complaints };
}

const stateOf = (tab: Tab) => tab.textContent("#state");
const backOf = (tab: Tab) => tab.evaluate("getComputedStyle(document.body).backgroundColor");
const hasState = (tab: Tab, hasText: string) => tab.locator("#state", { hasText }).waitFor();

/**
 * Waits until an expression is true in the page. The page's policy forbids what `waitForFunction`
 * does where the expression is false at first: it evaluates text from within the page.
 */
async function becomesTrue(tab: Tab, expression: string): Promise<void> {
  while (!(await tab.evaluate(expression))) await Bun.sleep(10);
}

testPage(
  "shows figures, charts and hostile names as text, in light and dark and on a phone",
  async () => {
    const served = new Served();
    const { tab, complaints } = await open(served.url);
    expect(await tab.textContent("h1")).toBe("tproxy 0.1.0");
    expect(await stateOf(tab)).toBe("upstream web/web2 down");
    expect(await tab.textContent("#upstreams")).toContain("connection refused");
    expect(await tab.$$eval(".charts canvas", (all) => all.length)).toBe(2);
    // Text, and nothing that was made of it.
    for (const id of ["services", "connections", "warnings"]) {
      await tab.locator(`#${id}`, { hasText: hostile }).waitFor();
    }
    expect(await tab.$$eval("main img, main script", (all) => all.length)).toBe(0);
    expect(await tab.evaluate(`"owned" in window`)).toBe(false);
    await tab.emulateMedia({ colorScheme: "light" });
    const light = await backOf(tab);
    await tab.emulateMedia({ colorScheme: "dark" });
    expect(await backOf(tab)).not.toBe(light);
    expect(await tab.$$eval(".charts canvas", (all) => all.length)).toBe(2);
    await tab.setViewportSize({ width: 400, height: 800 });
    // The charts follow an event that comes later than the new size.
    await becomesTrue(tab, "document.documentElement.scrollWidth <= 400");
    expect(complaints).toEqual([]);
    await tab.close();
    await served.close();
  },
);

testPage("says when the stream is lost, and goes on when it is back", async () => {
  const served = new Served();
  const { tab } = await open(served.url);
  const port = await served.lose();
  await hasState(tab, "no connection: these figures are old");
  served.return(port);
  await hasState(tab, "upstream web/web2 down");
  // The log has a stream of its own.
  await becomesTrue(tab, "document.querySelectorAll('#warnings tbody tr').length === 1");
  await tab.close();
  await served.close();
});

testPage("of the executable: everything that it needs comes from there", async () => {
  const folder = mkdtempSync(join(tmpdir(), "tproxy-page-"));
  const file = join(folder, "tproxy.toml");
  await Bun.write(
    file,
    `[metrics]
listen = "127.0.0.1:0"
[[service]]
name = "web"
listen = "127.0.0.1:0"
transparent = false
source = "self"
to = "127.0.0.1:1"
`,
  );
  const running = start(["run", "-c", file, "--admin", join(folder, "admin.sock")]);
  const [, url = ""] = await running.until(/Metrics at (http:\S+\/)metrics/);
  const { tab, complaints } = await open(url);
  await hasState(tab, "all is well");
  expect(await tab.textContent("#services tbody")).toContain("web");
  expect(await tab.textContent("#upstreams tbody")).toContain("127.0.0.1:1");
  running.kill("SIGTERM");
  await hasState(tab, "no connection");
  // A browser tells of a stream that has ended.
  expect(complaints.filter((text) => !text.includes("ERR_"))).toEqual([]);
  await tab.close();
  await running.finished();
  rmSync(folder, { recursive: true });
});
