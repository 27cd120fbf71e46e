/** `tproxy doctor`: what of this system stands between a packet and its listener. */

import { object } from "@optique/core/constructs";
import { commandLine, optionName } from "@optique/core/message";
import { optional, withDefault } from "@optique/core/modifiers";
import type { InferValue } from "@optique/core/parser";
import { command, constant, flag, option } from "@optique/core/primitives";
import { type Intent, type IntentRequest, parseIntent } from "../../capture/plan/intent.ts";
import { portStart } from "../../control/privileges.ts";
import type { ProcessIo } from "../../control/process-io.ts";
import { adoptSetup } from "../../diagnose/adopt.ts";
import { type Finding, unknown } from "../../diagnose/checks/finding.ts";
import { checkListener, checkSharing } from "../../diagnose/checks/listener.ts";
import { gatherLocal, judgeLocal, type LocalQuestion } from "../../diagnose/checks/local.ts";
import { judgePath, sideChecks, wayChecks } from "../../diagnose/checks/path.ts";
import { answerNeeds, bindNeeds, type Need } from "../../diagnose/checks/privileges.ts";
import { judgeSystem } from "../../diagnose/checks/system.ts";
import { connectSteps } from "../../diagnose/explain/connect.ts";
import { endpointText, type Wanted, waitingOn } from "../../diagnose/lookup.ts";
import { runProbe } from "../../diagnose/probe/run.ts";
import { conclusion, hasFailure, renderSections, type Section } from "../../diagnose/report.ts";
import { type CapturedPacket, samplePackets } from "../../diagnose/sample.ts";
import { usableCapabilities } from "../../diagnose/snapshot/capabilities.ts";
import { gatherConnect } from "../../diagnose/snapshot/connect-facts.ts";
import type { HostSnapshot } from "../../diagnose/snapshot/host.ts";
import { gatherPath, type PathQuestion } from "../../diagnose/snapshot/path-facts.ts";
import { holdersOf } from "../../diagnose/snapshot/port-holder.ts";
import { gatherSystem } from "../../diagnose/snapshot/system-facts.ts";
import { cutOffStatus, exitStatus, type StopReason, UsageError } from "../../errors.ts";
import { formatAddress } from "../../net/address.ts";
import { printJson } from "../../net/printable.ts";
import { markFindings } from "../doctor-marks.ts";
import { examplesFooter } from "../examples.ts";
import { captureFields, toRequest } from "../options/capture.ts";
import { inGroup, usageLine } from "../options/groups.ts";
import { schemedEndpointValue } from "../options/values.ts";
import { prose } from "../prose.ts";
import { machineOrError } from "../read-host.ts";
import { withWholeRepairs } from "../whole-repairs.ts";
import { planLine } from "../words/plan.ts";

const fields = object({
  command: constant("doctor"),
  ...inGroup("What to check", {
    listen: optional(
      option("--listen", schemedEndpointValue(), {
        description: prose`The listener that the packets are for: ${":50080"}, ${"127.0.0.1:50080"},
          ${"udp://:50053"}.`,
      }),
    ),
    probe: optional(
      option("--probe", schemedEndpointValue({ addressRequired: true }), {
        description: prose`Send a real packet to this address from a namespace of its own, and
          report how far it came. Nothing leaves this host, and nothing stays behind.`,
      }),
    ),
    udp: withDefault(
      flag("--udp", { description: prose`With --probe: send a datagram instead of a SYN.` }),
      false,
    ),
  }),
  ...captureFields,
  ...inGroup("Output", {
    json: withDefault(
      flag("--json", { description: prose`Print one JSON object, on one line.` }),
      false,
    ),
  }),
});

const footer = examplesFooter([
  ["sudo tproxy doctor", "the system by itself"],
  ["sudo tproxy doctor --listen :50080", "and whether that listener is transparent"],
  ["sudo tproxy doctor --dport 80 --in eth1 --to-port 50080", "the way of a packet to port 80"],
  ["sudo tproxy doctor --probe 8.8.8.8:80", "send one, and see where it ends"],
]);

/** The command `doctor` for the argument parser. */
export const doctorCommand = command("doctor", fields, {
  usageLine: usageLine("[OPTIONS]"),
  brief: prose`Find what is wrong, and print the command that repairs it.`,
  description: prose`Checks this system. With the options of ${commandLine("tproxy routes")} it also
    follows the path of a packet that they capture: firewall, ip rules, routes, source checks,
    listener, reply. It changes nothing. The exit status is 1 if anything would fail.
    ${optionName("--json")} prints the findings as data.`,
  footer,
});

export type DoctorOptions = InferValue<typeof fields>;

/**
 * Runs `doctor`; the exit status. `args` are what the options were made of, for repairs.
 * @throws UsageError for options that conflict
 */
export async function runDoctor(
  options: DoctorOptions,
  io: ProcessIo,
  args: readonly string[],
): Promise<number> {
  checkProbe(options);
  const request = toRequest(options, (line) => void io.stderr.write(`tproxy: ${line}\n`));
  const asked = intentOf(request);
  const stop = new AbortController();
  let stoppedBy: StopReason | undefined;
  io.onStop((reason) => {
    stoppedBy = reason;
    stop.abort();
  });
  const machine = machineOrError();
  const intent = asked && adoptSetup(asked, request, machine);
  const found: Section[] = [
    { title: "System", findings: judgeSystem(gatherSystem(machine, needsOf(options, intent))) },
    ...(intent === undefined ? listenerSections(options, machine) : []),
    ...(intent === undefined ? [] : markSections(intent)),
    ...(intent === undefined ? [] : pathSections(intent, options, machine)),
    ...(await probeSections(options, intent, machine, stop.signal)),
  ];
  if (stoppedBy !== undefined) return cutOffStatus(stoppedBy);
  const sections = found.map(({ title, findings }) => {
    return { title, findings: withWholeRepairs(findings, args) };
  });
  await io.stdout.write(options.json ? asJson(sections) : renderSections(sections, io.stdout));
  return hasFailure(sections) ? exitStatus.failure : exitStatus.success;
}

/** Refuses a probe that no client could send, and what would be ignored. @throws UsageError */
function checkProbe({ probe, udp }: DoctorOptions): void {
  if (udp && probe === undefined) {
    throw new UsageError(
      '--udp needs --probe: give that, "--proto udp" or "--listen udp://:50053"',
    );
  }
  const address = probe?.endpoint.address;
  if (address === undefined) return;
  const { family, bytes } = address;
  const [first = 0] = bytes;
  const isLow = bytes.subarray(0, -1).every((byte) => byte === 0) && (bytes.at(-1) ?? 0) < 2;
  const isUnicast = family === 4 ? first !== 127 && first !== 0 && first < 224 : first !== 0xff;
  if (isUnicast && !(family === 6 && isLow)) return;
  throw new UsageError(
    `--probe: "${formatAddress(address)}" is no address that a client elsewhere can ask for: ` +
      "give a unicast address that is not loopback",
  );
}

/** The intent that was given; undefined if none of its options were. */
function intentOf(request: IntentRequest): Intent | undefined {
  if (Object.values(request).every((value) => value === undefined)) return undefined;
  const intent = parseIntent(request);
  if (!intent.ok) throw new UsageError(planLine(intent.issue));
  return intent.value;
}

/** What the proxy in question needs beside IP_TRANSPARENT and rules. */
function needsOf({ listen }: DoctorOptions, intent: Intent | undefined): Need[] {
  const start = portStart();
  const port = intent?.toPort ?? listen?.endpoint.port ?? 0;
  const protocol = listen?.scheme ?? "tcp";
  const sockets = bindNeeds({ name: `${protocol} port ${port}`, port, transparent: false }, start);
  if (intent === undefined || !intent.protocols.includes("udp")) return sockets;
  // What is only marked arrives at the listener's own port.
  if (intent.redirect || intent.toPort === undefined) return sockets;
  return [...sockets, ...answerNeeds({ listeners: [port], captured: intent.ports }, start)];
}

function markSections(intent: Intent): Section[] {
  const findings = markFindings(intent);
  return findings.length === 0 ? [] : [{ title: "Marks of packets", findings }];
}

function listenerSections({ listen }: DoctorOptions, machine: HostSnapshot): Section[] {
  if (listen === undefined) return [];
  const { address, port } = listen.endpoint;
  const protocol = listen.scheme ?? "tcp";
  const expected = { protocol, address: address?.bytes, port };
  const title = `Listener on ${protocol} port ${port}`;
  const listener = checkListener(machine.sockets[protocol], expected);
  return [{ title, findings: [listener, ...sharingOf(machine, expected)] }];
}

/** The finding about several programs that have one port. */
function sharingOf({ sockets }: HostSnapshot, at: Pick<Wanted, "protocol" | "port">): Finding[] {
  const ofProtocol = sockets[at.protocol];
  const waiting = waitingOn(ofProtocol, at.protocol, at.port);
  return checkSharing(ofProtocol, at, holdersOf(waiting.map(({ inode }) => inode)));
}

function pathSections(intent: Intent, options: DoctorOptions, machine: HostSnapshot): Section[] {
  if (intent.redirect) {
    const text = "The way of a packet is not followed through NAT.";
    const finding = unknown("redirect", text, "tproxy routes --check …");
    return [{ title: "Packets by --redirect", findings: [finding] }];
  }
  const questions = samplePackets(intent, machine, options.listen?.endpoint.port);
  const owner = unguarded(intent.guards);
  const own = intent.local
    ? questions.map((question) => localSection({ ...question, owner }, machine))
    : [];
  return [
    ...(intent.captures ? questions : []).map((question) => pathSection(question, machine)),
    ...own,
    ...backendSections(intent, questions, machine),
  ];
}

function pathSection(question: PathQuestion, machine: HostSnapshot): Section {
  const facts = gatherPath(machine, question);
  const findings = judgePath(facts, [...wayChecks, ...sideChecks]);
  return { title: titleOf(question), findings: [...findings, ...sharingOf(machine, facts.wanted)] };
}

/** The connections that the proxy makes to backends with its clients' addresses. */
function backendSections(
  { backends, captures }: Intent,
  questions: readonly CapturedPacket[],
  machine: HostSnapshot,
): Section[] {
  return questions.flatMap(({ packet: { protocol, source, destination, port } }) =>
    // The reply path alone is for any backend.
    (captures || backends.length > 0 ? backends : [{ address: destination, port: undefined }])
      .filter(({ address }) => address.family === source.family)
      .map(({ address, port: only = port }): Section => {
        const owner = { uid: process.geteuid?.() ?? 0, gid: process.getegid?.() ?? 0 };
        const capabilities = usableCapabilities();
        const question = { protocol, to: address, port: only, from: source, owner, capabilities };
        const to = endpointText(address.bytes, only);
        return {
          title: `A connection by ${protocol} to ${to} from the client's ${formatAddress(source)}`,
          findings: connectSteps(gatherConnect(machine, question)),
        };
      }),
  );
}

/** A user and a group whose programs no guard excepts. */
function unguarded({ uids, gids }: Intent["guards"]): { uid: number; gid: number } {
  const firstUser = 1000;
  const free = (taken: readonly number[]) => {
    let id = firstUser;
    while (taken.includes(id)) id++;
    return id;
  };
  return { uid: free(uids), gid: free(gids) };
}

/** A packet that a program of this host sends, whatever else is captured. */
function localSection(question: LocalQuestion, machine: HostSnapshot): Section {
  const { facts, rest } = gatherLocal(machine, question);
  const way = rest === undefined ? [] : judgePath(gatherPath(machine, rest), wayChecks);
  const { protocol, destination, port } = question.packet;
  const to = endpointText(destination.bytes, port);
  return {
    title: `A packet of ${protocol} from this host to ${to}`,
    findings: [...judgeLocal(facts), ...way],
  };
}

async function probeSections(
  options: DoctorOptions,
  intent: Intent | undefined,
  machine: HostSnapshot,
  signal: AbortSignal,
): Promise<Section[]> {
  const address = options.probe?.endpoint.address;
  if (options.probe === undefined || address === undefined) return [];
  const { port } = options.probe.endpoint;
  const protocol = options.udp || options.probe.scheme === "udp" ? "udp" : "tcp";
  // The packet that the intent is about, asking for what the probe asks for.
  const [sample] = intent === undefined ? [] : samplePackets(intent, machine, port);
  const packet = { ...sample?.packet, protocol, destination: address, port } as const;
  const isOfFamily = sample?.packet.source.family === address.family;
  const meant = sample !== undefined && isOfFamily ? { ...sample, packet } : undefined;
  const findings = await runProbe(
    {
      protocol,
      destination: address,
      port,
      capture: sample?.capture,
      meant: meant as PathQuestion | undefined,
    },
    signal,
  );
  return [{ title: `A probe by ${protocol} to ${endpointText(address.bytes, port)}`, findings }];
}

function titleOf({ packet }: PathQuestion): string {
  const { protocol, source, iif, destination, port } = packet;
  const to = endpointText(destination.bytes, port);
  return `A packet of ${protocol} from ${formatAddress(source)} by ${iif} to ${to}`;
}

function asJson(sections: readonly Section[]): string {
  const ok = !hasFailure(sections);
  return `${printJson({ ok, conclusion: conclusion(sections), sections })}\n`;
}
