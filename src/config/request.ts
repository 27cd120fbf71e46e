/** What a service captures, as a request for an Intent. Pure: lists of networks have been read. */

import type { IntentRequest } from "../capture/plan/intent.ts";
import type { Family } from "../net/address.ts";
import type { Cidr } from "../net/cidr.ts";
import { ok, type Parsed } from "../net/result.ts";
import { parseNetworkList } from "./networks.ts";
import type { CaptureSettings, RoutesSettings } from "./settings.ts";
import type { NetworkSource } from "./syntax.ts";

const familiesOf = { "4": [4], "6": [6], both: [4, 6] } as const;

/** The fields that are set, in the order in which options are looked at; the rest stay out. */
export function requestOf(
  capture: CaptureSettings,
  routes: RoutesSettings = {},
): Parsed<IntentRequest> {
  const lists = [capture.dst, capture.src, capture.bypass].map(networksOf);
  const wrong = lists.find((list) => !list.ok);
  if (wrong !== undefined && !wrong.ok) return wrong;
  const [destinations, sources, bypass] = lists.map((list) => (list.ok ? list.value : undefined));
  const families: Family[] | undefined = capture.family && [...familiesOf[capture.family]];
  const request = {
    destinations,
    sources,
    ports: copy(capture.dport),
    interfaces: copy(capture.in),
    families,
    bypass,
    bypassPrivate: capture["bypass-private"] || undefined,
    local: capture.local || undefined,
    guardMark: capture["guard-mark"],
    guardUids: numbers(capture["guard-uid"]),
    guardGids: numbers(capture["guard-gid"]),
    guardCgroups: copy(capture["guard-cgroup"]),
    mark: routes.mark,
    table: routes.table,
    priority: routes.priority,
    tableName: routes["table-name"],
    sysctl: routes.sysctl || undefined,
  };
  return ok(defined(request));
}

/** A request without the fields that are not set. */
export function defined(request: IntentRequest): IntentRequest {
  const entries = Object.entries(request).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries) as IntentRequest;
}

/** The networks of some sources, the files among them as well; undefined for no sources. */
export function networksOf(
  sources: readonly NetworkSource[] | undefined,
): Parsed<Cidr[] | undefined> {
  if (sources === undefined) return ok(undefined);
  const networks: Cidr[] = [];
  for (const source of sources) {
    const list = "file" in source ? parseNetworkList(source) : ok([source]);
    if (!list.ok) return list;
    // A list may be longer than a call takes arguments.
    for (const each of list.value) networks.push(each);
  }
  return ok(networks);
}

/** Names have been looked up by now. */
function numbers(ids: readonly (number | string)[] | undefined): number[] | undefined {
  return ids?.filter((id) => typeof id === "number");
}

function copy<T>(items: readonly T[] | undefined): T[] | undefined {
  return items && [...items];
}
