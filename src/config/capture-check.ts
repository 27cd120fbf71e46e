/**
 * Finds contradictions in the captures of a file's services, by making an Intent of each, as
 * far as that goes without the listeners' sockets. Pure: lists of networks have been read.
 */

import type { PlanIssue, PlanIssueArgs } from "../capture/plan/contradictions.ts";
import { type IntentRequest, parseIntent } from "../capture/plan/intent.ts";
import type { Family } from "../net/address.ts";
import { isUnspecified } from "../net/ip.ts";
import { type Path, type WordsOf, worded } from "../net/issue.ts";
import { quote } from "../net/result.ts";
import type { Listen } from "./listen.ts";
import { defined, requestOf } from "./request.ts";
import { withDefaults } from "./service.ts";
import type { CaptureSettings, ServiceSettings, Settings } from "./settings.ts";

/** A contradiction in the words of a file. */
export interface CaptureProblem {
  readonly path: Path;
  readonly text: string;
}

/** The contradictions of all services, where rules are installed. */
export function checkCaptures({ service = [], routes, defaults }: Settings): CaptureProblem[] {
  if (routes?.install !== "auto") return [];
  const found = service.flatMap((own, i): CaptureProblem[] => {
    if (!isRead(own.capture)) return [];
    const request = requestOf(own.capture ?? {}, routes);
    if (!request.ok) return [];
    const { redirect } = withDefaults(own, defaults);
    const parsed = parseIntent(completed(request.value, own, redirect));
    if (parsed.ok) return [];
    return [{ path: pathOf(parsed.issue.path, i), text: planText(parsed.issue) }];
  });
  // What is wrong with the rules of all services is wrong once.
  return [...new Map(found.map((each) => [JSON.stringify(each), each])).values()];
}

/** Whether all lists of networks could be read; those that could not are problems already. */
function isRead({ dst = [], src = [], bypass = [] }: CaptureSettings = {}): boolean {
  return [dst, src, bypass].every((list) =>
    list.every((each) => !("file" in each) || each.text !== undefined),
  );
}

/** The families of what is captured: those of its networks, or all that the listeners take. */
function familiesOf(request: IntentRequest, listen: readonly Listen[]): Family[] | undefined {
  if (request.families !== undefined) return request.families;
  const networks = [...(request.destinations ?? []), ...(request.sources ?? [])];
  const has4 = listen.some(({ address }) => address?.family !== 6 || isUnspecified(address.bytes));
  const has6 = listen.some(({ address }) => address?.family === 6);
  const isWanted = (family: Family) =>
    networks.length > 0
      ? networks.some((each) => each.family === family)
      : family === 4
        ? has4
        : has6;
  const found = ([4, 6] as const).filter(isWanted);
  return found.length === 0 ? undefined : found;
}

/** The request with what `forward` adds to it, of which it knows without sockets. */
function completed(
  request: IntentRequest,
  { listen = [] }: ServiceSettings,
  redirect: boolean,
): IntentRequest {
  const { guardMark, guardUids, guardGids, guardCgroups } = request;
  // Without a guard it is given a mark of its own.
  const isGuarded = [guardMark, guardUids, guardGids, guardCgroups].some((one) => one);
  const protocols = [...new Set(listen.map(({ protocol }) => protocol))];
  return defined({
    ...request,
    local: isGuarded ? request.local : undefined,
    families: familiesOf(request, listen),
    protocols: protocols.length === 0 ? undefined : protocols,
    replyPath: redirect ? undefined : true,
  });
}

/** The setting of each field of a request. */
const settings: Readonly<Record<string, readonly [table: "capture" | "routes", name: string]>> = {
  destinations: ["capture", "dst"],
  sources: ["capture", "src"],
  ports: ["capture", "dport"],
  interfaces: ["capture", "in"],
  families: ["capture", "family"],
  bypass: ["capture", "bypass"],
  local: ["capture", "local"],
  guardMark: ["capture", "guard-mark"],
  guardUids: ["capture", "guard-uid"],
  guardGids: ["capture", "guard-gid"],
  guardCgroups: ["capture", "guard-cgroup"],
  mark: ["routes", "mark"],
  table: ["routes", "table"],
  priority: ["routes", "priority"],
  tableName: ["routes", "table-name"],
  sysctl: ["routes", "sysctl"],
};

function pathOf([field = "", ...rest]: PlanIssue["path"], service: number): Path {
  const [table, name] = settings[field] ?? ["capture"];
  const inner = [table, ...(name === undefined ? [] : [name]), ...rest];
  return table === "routes" ? inner : ["service", service, ...inner];
}

/** The text of a contradiction in the words of a file. */
export function planText(issue: PlanIssue): string {
  return worded(words, issue);
}

const families = (list: readonly number[]) => list.map((family) => `IPv${family}`).join(" and ");

const words: WordsOf<PlanIssueArgs> = {
  invalid: ({ text }) => text,
  "stray-family": ({ network, family, families: others }) =>
    `${quote(network)} is IPv${family}, and ${families(others)} is captured: leave one of them out`,
  "bare-family": ({ network, bare }) =>
    `${quote(network)} says nothing about IPv${bare}: add a network of it, or give family`,
  "too-many-combinations": ({ count, max }) =>
    `${count} combinations of dst, src, dport and in are too many: give at most ${max}`,
  "redirect-without-port": () => "redirect has no port to redirect to",
  "redirect-udp": () => "NAT hides where a datagram was sent to: listen for TCP only",
  "redirect-needless": () => "NAT has no use for this: leave it out",
  "nothing-to-hand-over": () => "nothing is captured that could be handed over",
  "address-without-port": () => "the address has no port",
  "address-per-family": (args) => `give one address for each of ${families(args.families)}`,
  "all-bypassed": ({ family }) => `nothing of IPv${family} is left to capture: bypass less of it`,
  "destinations-bypassed": ({ destination }) =>
    `nothing is left to capture: ${quote(destination)} is in dst, and is also bypassed`,
  "guard-without-local": () => "a guard needs local = true",
  "local-loop": () => "local needs a guard",
  "guard-is-mark": ({ guard, mark, free }) =>
    `${quote(guard)} has the mark ${mark} in it, by which packets are routed to the listener: ` +
    `give another${free === undefined ? ", and [routes] mark a mask" : `, ${quote(free)}`}`,
  "backend-family": ({ backend, family }) => `the upstream ${backend} is IPv${family}`,
  "backend-without-port": ({ example }) => `give the port too, ${quote(example)}`,
  "sysctl-of-nothing": () =>
    "nothing is set here: settings are made for IPv4, and for other interfaces than lo",
};
