/** What options of `forward` amount to, and that a file says the same. */

import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { formatMessage } from "@optique/core/message";
import { parse } from "@optique/core/parser";
import fc from "fast-check";
import { forwardCommand } from "../../../src/cli/options/forward.ts";
import { settingsOf, withoutStdin } from "../../../src/cli/options/forward-settings.ts";
import { issueLine } from "../../../src/cli/words/settings.ts";
import { checkCaptures } from "../../../src/config/capture-check.ts";
import { checkSettings } from "../../../src/config/check.ts";
import type { Written } from "../../../src/config/kinds.ts";
import type { Listen } from "../../../src/config/listen.ts";
import { problemText } from "../../../src/config/problem.ts";
import { complete } from "../../../src/config/service.ts";
import { configurationKind, type Settings } from "../../../src/config/settings.ts";
import { writeToml } from "../../../src/config/write.ts";
import { anySettings, readText } from "../../helpers/configurations.ts";

type WrittenTable = { readonly [key: string]: Written };

function settingsFrom(args: readonly string[]): Settings {
  const parsed = parse(forwardCommand, ["forward", ...args]);
  if (!parsed.success) throw new Error(formatMessage(parsed.error));
  return settingsOf(parsed.value);
}

const many = (value: Written | undefined): string[] =>
  value === undefined ? [] : [value].flat().map(String);

/** One setting as options: their names are the same. */
function optionsOf([name, value]: readonly [string, Written]): string[] {
  if (name === "transparent") return ["--no-transparent"];
  if (value === true) return [`--${name}`];
  if (name === "udp-timeout" && typeof value === "object") {
    return Object.entries(value as WrittenTable).map(
      ([port, time]) => `--udp-timeout=${port === "default" ? "" : `${port}=`}${time}`,
    );
  }
  return many(value).map((each) => `--${name}=${each}`);
}

/** The command line of settings that one can say. */
function argumentsOf(settings: Settings): string[] {
  const { service, log, routes, ...rest } = configurationKind.write(settings) as {
    readonly service: readonly WrittenTable[];
    readonly log?: WrittenTable;
    readonly routes?: WrittenTable;
  };
  const { name: _, listen, capture, ...own } = service[0] as WrittenTable;
  const { install, ...rules } = routes ?? {};
  const { lossless, ...logged } = log ?? {};
  return [
    ...many(listen).map((each) => (each.includes("://") ? each : `tcp://${each}`)),
    ...(install === undefined ? [] : [`--routes=${install}`]),
    ...Object.entries(logged).map(([name, value]) => `--log-${name}=${value}`),
    ...(lossless === true ? ["--log-lossless"] : []),
    ...Object.entries<Written>({
      ...(rest as WrittenTable),
      ...own,
      ...rules,
      ...(capture as WrittenTable),
    }).flatMap(optionsOf),
  ];
}

/** A table without what an option cannot say: that something is off, or as it is anyway. */
function said<T extends object>(table: T): T {
  const isSaid = ([name, value]: [string, unknown]) =>
    name === "transparent" ? value === false : ![false, "none"].includes(value as string);
  return Object.fromEntries(Object.entries(table).filter(isSaid)) as T;
}

/** Names of users are looked up by the options themselves. */
const numbers = (ids: readonly (number | string)[] = [1]) =>
  ids.map((id) => (typeof id === "number" ? id : 7));

const anywhere = { protocol: "tcp", address: undefined, ports: { from: 80, to: 80 } } as never;

/** Random settings of one service that a command line can say. */
const sayable = anySettings.map((settings): Settings => {
  const { workers = 2, user, log, routes, service = [] } = settings;
  const { pool: _, "log-level": __, capture, ...own } = service[0] ?? {};
  const { listen = [anywhere] as readonly Listen[] } = own;
  const guards = {
    "guard-uid": numbers(capture?.["guard-uid"]),
    "guard-gid": numbers(capture?.["guard-gid"]),
  };
  return {
    workers: workers === 1 ? "auto" : workers,
    ...(user === undefined ? {} : { user }),
    ...(log === undefined ? {} : { log: { level: "info", ...log, lossless: true } }),
    ...(routes === undefined ? {} : { routes: { ...said(routes), install: "auto" } }),
    service: [
      {
        to: ["original"],
        ...said(own),
        name: "forward",
        listen: listen.map((each) => ({
          ...each,
          ports: { from: each.ports.from, to: each.ports.from },
        })),
        ...(capture === undefined ? {} : { capture: { ...said(capture), ...guards } }),
      },
    ],
  };
});

describe("options and settings", () => {
  test("have the same names, and the file that is printed says the same", async () => {
    await fc.assert(
      fc.asyncProperty(sayable, async (settings) => {
        // In a list a comma begins the next file.
        fc.pre(!/"file":"(?:[^"\\]|\\.)*,/.test(JSON.stringify(settings)));
        fc.pre(!/"file":"-/.test(JSON.stringify(settings)));
        const given = settingsFrom(argumentsOf(settings));
        expect(given).toEqual(settings);
        const printed = writeToml(given);
        const lists = Object.fromEntries(
          [...printed.matchAll(/"@((?:[^"\\]|\\.)*)"/g)].map(([, name = ""]) => [
            JSON.parse(`"${name}"`),
            "10.0.0.0/8",
          ]),
        );
        const { problems, configuration, settings: read } = await readText(printed, lists);
        const isRefused =
          checkSettings(given, { cores: 4 }).length + checkCaptures(read).length > 0;
        if (isRefused) return;
        expect(problems.map(problemText)).toEqual([]);
        // The settings themselves have an empty list of pools when they come from a file.
        const completed = (each: object | undefined) => withoutText({ ...each, settings: {} });
        expect(completed(configuration)).toEqual(completed(complete(given)));
      }),
      { numRuns: 25 },
    );
  }, 240_000);

  test("--json is a format, and another one contradicts it", () => {
    const given = (...args: string[]) => settingsFrom([":80", "--to=original", ...args]).log;
    expect(given("--json")).toEqual({ format: "json" });
    expect(given("--json", "--log-format=json")).toEqual({ format: "json" });
    expect(() => given("--json", "--log-format=text")).toThrow(
      "--json and --log-format exclude each other: give one of them",
    );
    expect(given("--log-file=x.log")).toEqual({ file: join(process.cwd(), "x.log") });
  });

  test("nothing is set that was not given", () => {
    expect(settingsFrom([":80", "--to", "original"])).toEqual({
      service: [
        {
          name: "forward",
          listen: [{ protocol: "tcp", address: undefined, ports: { from: 80, to: 80 } }],
          to: ["original"],
        },
      ],
    } as never);
  });

  test("what the last one says counts, and lists of standard input stand in the file", () => {
    const args = [":80", "--udp", "--to", "original", "--udp-timeout=1s", "--udp-timeout", "53=2s"];
    const { service } = settingsFrom([...args, "--udp-timeout=53=3s", "--udp-timeout=4s"]);
    expect(service?.[0]?.["udp-timeout"]).toEqual([
      { port: undefined, ms: 4_000 },
      { port: 53, ms: 3_000 },
    ]);
    const settings = settingsFrom([...args, "--accept-proxy=@-,::1", "--bypass=@x,@-"]);
    const { capture, "accept-proxy": senders } = settings.service?.[0] ?? {};
    Object.assign((senders as object[])[0] as object, { text: "10.0.0.0/8\n192.0.2.1" });
    Object.assign(capture?.bypass?.[1] as object, { text: "10.0.0.0/8" });
    expect(writeToml(withoutStdin(settings))).toContain(
      'accept-proxy = ["10.0.0.0/8", "192.0.2.1", "::1"]',
    );
    expect(writeToml(withoutStdin(settings))).toContain('bypass = ["@x", "10.0.0.0/8"]');
  });
});

/** Where lists have been read from does not matter. */
function withoutText(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value ?? null).replace(/,"text":"[^"]*"/g, ""));
}

test("no issue is worded as undefined", () => {
  fc.assert(
    fc.property(anySettings, (settings) => {
      for (const issue of checkSettings(settings, { cores: 4 })) {
        expect(issueLine(issue)).not.toMatch(/undefined|\[object/);
      }
    }),
    { numRuns: 50 },
  );
});
