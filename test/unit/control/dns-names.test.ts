import { describe, expect, test } from "bun:test";
import { type NamesIo, WatchedName } from "../../../src/control/dns-names.ts";
import type { NameAnswer } from "../../../src/control/look-up.ts";
import * as limits from "../../../src/engine/limits.ts";
import { type Address, formatAddress, parseAddress } from "../../../src/net/address.ts";

function addresses(...texts: string[]): Address[] {
  return texts.map((text) => {
    const parsed = parseAddress(text);
    if (!parsed.ok) throw new Error(parsed.error);
    return parsed.value;
  });
}

/** What the DNS answers; without addresses, that there are none. */
function answerOf(ttlSeconds: number | undefined, ...texts: string[]): NameAnswer {
  const problem = texts.length === 0 ? "DNS: none" : "";
  return { addresses: addresses(...texts), ttlSeconds, unanswered: [], problem };
}

/** A name under test: what the DNS answers next, what was waited for, and what was said. */
class Stage implements NamesIo {
  answer: NameAnswer = answerOf(undefined);
  waits: number[] = [];
  told: string[] = [];
  callback: () => void = () => {};
  readonly name = new WatchedName("example.test", this);

  resolve = async () => this.answer;
  after = (ms: number, callback: () => void) => {
    this.waits.push(ms);
    this.callback = callback;
    return () => this.waits.push(-1);
  };

  async start(ttlSeconds: number | undefined, ...texts: string[]): Promise<boolean> {
    this.answer = answerOf(ttlSeconds, ...texts);
    await this.name.start();
    this.name.watch({
      changed: () => this.told.push(this.texts),
      say: (line) => this.told.push(line),
    });
    return this.name.addresses.length > 0;
  }

  /** Lets the time pass that is waited for, with this as the next answer. */
  async next(ttlSeconds: number | undefined, ...texts: string[]): Promise<void> {
    this.answer = answerOf(ttlSeconds, ...texts);
    this.callback();
    await Bun.sleep(0);
  }

  get texts(): string {
    return this.name.addresses.map(formatAddress).join(" ");
  }
}

describe("a watched name", () => {
  test("all its addresses, once each and in an order of their own", async () => {
    const stage = new Stage();
    expect(await stage.start(5, "192.0.2.2", "2001:db8::1", "192.0.2.1", "192.0.2.2")).toBe(true);
    expect(stage.texts).toBe("192.0.2.1 192.0.2.2 2001:db8::1");
    await stage.next(5, "2001:db8::1", "192.0.2.1", "192.0.2.2");
    expect(stage.told).toEqual([]);
    await stage.next(5, "192.0.2.3");
    expect(stage.told).toEqual(["192.0.2.3"]);
  });

  test("is looked up again by its time to live, within bounds", async () => {
    const stage = new Stage();
    await stage.start(30, "192.0.2.1");
    for (const ttl of [0, 100_000, undefined, Number.NaN, -5, Number.POSITIVE_INFINITY])
      await stage.next(ttl, "192.0.2.1");
    const { nameRefreshMsMin, nameRefreshMsMax, nameRefreshMs } = limits;
    const bounded = [30_000, nameRefreshMsMin, nameRefreshMsMax, nameRefreshMs];
    expect(stage.waits).toEqual([...bounded, nameRefreshMs, nameRefreshMsMin, nameRefreshMs]);
  });

  test("keeps its addresses when it is not found any more, and says so once", async () => {
    const stage = new Stage();
    await stage.start(1, "192.0.2.1");
    await stage.next(undefined);
    await stage.next(undefined);
    expect(stage.texts).toBe("192.0.2.1");
    expect(stage.told).toEqual([
      'the name "example.test" is not found any more (DNS: none): its old addresses stay',
    ]);
    expect(stage.waits.slice(1)).toEqual([1000, 2000]);
    for (let i = 0; i < 6; i++) await stage.next(undefined);
    expect(stage.waits.at(-1)).toBe(limits.nameRetryMs);
    await stage.next(1, "192.0.2.9");
    expect(stage.told.slice(1)).toEqual(['the name "example.test" is found again', "192.0.2.9"]);
  });

  test("is asked for on and on when it is unknown at the start, and that is said", async () => {
    const stage = new Stage();
    expect(await stage.start(undefined)).toBe(false);
    expect(stage.told).toEqual([
      'the name "example.test" is not found (DNS: none): it is looked up again',
    ]);
    await stage.next(1, "192.0.2.1");
    expect(stage.told.slice(1)).toEqual(['the name "example.test" is found again', "192.0.2.1"]);
  });

  test("keeps the addresses of a family that nobody has told of", async () => {
    const stage = new Stage();
    await stage.start(1, "192.0.2.1", "2001:db8::1");
    stage.answer = { ...answerOf(1, "192.0.2.2"), unanswered: [6] };
    stage.callback();
    await Bun.sleep(0);
    expect(stage.texts).toBe("192.0.2.2 2001:db8::1");
    await stage.next(1, "192.0.2.2");
    expect(stage.texts).toBe("192.0.2.2");
  });

  test("nothing happens after its end", async () => {
    const stage = new Stage();
    await stage.start(undefined);
    stage.told = [];
    stage.name.close();
    await stage.next(1, "192.0.2.1");
    expect(stage.waits).toEqual([1000, -1]);
    expect(stage.told).toEqual([]);
  });
});
