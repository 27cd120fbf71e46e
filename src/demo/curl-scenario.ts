/** Act 2: the article's own experiment, `curl --interface lo 8.8.8.8:80` on one machine. */

import { errnoText } from "../../ffi/errno.ts";
import { applySteps, undoSteps } from "../capture/plan/steps.ts";
import { renderIptables } from "../capture/render/iptables.ts";
import {
  addresses,
  commandsOf,
  impatientMs,
  loopback,
  patientMs,
  planFor,
  webPort,
} from "./addresses.ts";
import { ask } from "./client.ts";
import type { Context, Scenario } from "./context.ts";
import { helloWorld, Server } from "./server.ts";
import { Host } from "./topology-builder.ts";
import { Interrupted } from "./wait.ts";

/** The result of a client's attempt. */
interface Visit {
  readonly ok: boolean;
  /** The bytes it received. */
  readonly text: string;
  /** Why it failed. */
  readonly error: string;
}

/** Something that asks for http://8.8.8.8:80/ out of lo. */
interface Visitor {
  readonly name: string;
  readonly visit: (host: Host, timeoutMs: number, signal: AbortSignal) => Promise<Visit>;
}

export const curlAct: Scenario = {
  title: "The article's curl, on one machine",
  intro:
    "The three commands, a listener with IP_TRANSPARENT on 0.0.0.0:80, and a client that goes " +
    "out through lo to 8.8.8.8.",
  play: async (context) => {
    const { report, means } = context;
    using host = Host.create();
    const plan = planFor({});
    for (const step of applySteps(plan)) means.perform(host, step);
    report.commands(commandsOf(renderIptables(plan)));
    const visitor = chooseVisitor(context, host);
    await playVisits(context, host, visitor, () => {
      for (const step of undoSteps(plan)) means.perform(host, step);
    });
    await playWithoutOption(context, host, visitor);
    report.note(
      "What this shows is the listener's half: IP_TRANSPARENT. A packet out through lo keeps the " +
        "route of its sending, and the three commands are not asked. Act 3 is where they decide.",
    );
  },
};

/** With the three commands and, without a new listener, with all of them taken back. */
async function playVisits(
  { report, setting }: Context,
  host: Host,
  visitor: Visitor,
  takeBack: () => void,
): Promise<void> {
  await using server = await listen(host, true, setting);
  const first = await visitor.visit(host, patientMs, setting.signal);
  const connection = first.ok ? await server.conversation() : undefined;
  report.output("listener", server.takeLines());
  report.output(visitor.name, first.text || first.error);
  report.claim({
    step: "hello",
    text: `${visitor.name} asked 8.8.8.8:80 and was told "hello world".`,
    ok: first.ok,
    evidence: { client: visitor.name, received: first.text, error: first.error },
  });
  report.claim({
    step: "addresses",
    text: "The listener sees whom the client asked for: 8.8.8.8:80, no address of this host.",
    ok: connection?.local === "8.8.8.8:80" && connection.client.startsWith("127.0.0.1:"),
    evidence: { client: connection?.client ?? null, local: connection?.local ?? null },
  });

  takeBack();
  const second = await visitor.visit(host, patientMs, setting.signal);
  report.claim({
    step: "no-rules-needed",
    text: "To be honest about it: with the three commands taken back it works just as well.",
    ok: second.ok,
    evidence: { received: second.text, error: second.error },
  });
}

async function playWithoutOption(
  { report, setting }: Context,
  host: Host,
  visitor: Visitor,
): Promise<void> {
  await using _server = await listen(host, false, setting);
  const visit = await visitor.visit(host, impatientMs, setting.signal);
  report.claim({
    step: "option-needed",
    text: "With a listener that lacks IP_TRANSPARENT it does not: there is no answer.",
    ok: !visit.ok && visit.text === "",
    evidence: { received: visit.text, error: visit.error },
    because: visit.ok ? [] : [visit.error],
  });
}

async function listen(host: Host, transparent: boolean, setting: Context["setting"]) {
  const address = addresses[4].any.bytes;
  const options = { protocol: "tcp", address, port: webPort, transparent } as const;
  return new Server(host, { ...options, answer: helloWorld }, setting);
}

/** curl if there is one, with what it needs nowadays; otherwise our own client. */
function chooseVisitor({ report, means }: Context, host: Host): Visitor {
  const path = means.findProgram("curl");
  if (path === undefined) {
    report.note(
      "There is no curl here: our own client does what curl 7.29 did, a socket bound both to the " +
        "device lo and to 127.0.0.1.",
    );
    return { name: "client", visit: visitOurselves };
  }
  host.addHostRoute(addresses[4].foreign, "lo", loopback);
  report.commands([
    "ip route add 8.8.8.8 dev lo src 127.0.0.1",
    "curl --http0.9 --interface lo 8.8.8.8:80",
  ]);
  report.note(
    "Not in the article: the route, because curl now binds to lo alone and the kernel has to " +
      "find a source address; and HTTP/0.9, because curl now rejects an answer without a header.",
  );
  return { name: "curl", visit: (...args) => visitByCurl(path, ...args) };
}

const visitOurselves: Visitor["visit"] = async (host, timeoutMs, signal) => {
  const to = addresses[4].foreign;
  const question = { to, port: webPort, from: loopback, device: "lo", timeoutMs };
  const { connected, errno, text } = await ask(host, question, signal);
  return { ok: isHello(text), text, error: connected ? "" : `connect: ${errnoText(errno)}` };
};

async function visitByCurl(
  path: string,
  host: Host,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<Visit> {
  const seconds = `${timeoutMs / 1000}`;
  const usual = ["-q", "--silent", "--show-error", "--noproxy", "*", "--max-time", seconds];
  const target = ["--interface", "lo", "8.8.8.8:80"];
  const visit = await runCurl([path, ...usual, "--http0.9", ...target], host, signal);
  // Before 7.64 curl did not know the option, nor did it need it.
  if (visit.status !== 2) return visit;
  return runCurl([path, ...usual, ...target], host, signal);
}

async function runCurl(command: string[], host: Host, signal: AbortSignal) {
  const child = host.run(() =>
    Bun.spawn(command, { stdin: "ignore", stdout: "pipe", stderr: "pipe", signal }),
  );
  const [text, error, status] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (signal.aborted) throw new Interrupted();
  return { status, ok: status === 0 && isHello(text), text, error: error.trim() };
}

function isHello(text: string): boolean {
  return text === "hello world\n";
}
