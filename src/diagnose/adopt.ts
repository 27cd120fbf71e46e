/** Which of several set-ups of this program an intent is about. Pure. */

import { NFPROTO_INET } from "../../ffi/netlink/constants.ts";
import { setupOf } from "../capture/live/names.ts";
import { rulesOf, type Setup, setupFrom } from "../capture/live/setups.ts";
import type { Intent, IntentRequest } from "../capture/plan/intent.ts";
import { samplePackets } from "./sample.ts";
import type { HostSnapshot } from "./snapshot/host.ts";
import { gatherPath } from "./snapshot/path-facts.ts";

/**
 * The intent with the mark, table and priority of the set-up that is there: of the name that the
 * request gives, or of the one that marks such a packet. What the request gives stays.
 */
export function adoptSetup(intent: Intent, request: IntentRequest, machine: HostSnapshot): Intent {
  const setup = intent.redirect ? undefined : findSetup(intent, request, machine);
  const [mark] = setup?.marks ?? [];
  if (setup === undefined || mark === undefined) return intent;
  const rules = machine.policy[mark.family].rules.filter(({ protocol }) => protocol === intent.tag);
  const [rule] = rulesOf(setup, rules);
  return {
    ...intent,
    tableName: setup.name,
    mark: request.mark ?? mark.mark,
    table: request.table ?? rule?.table ?? intent.table,
    priority: request.priority ?? rule?.priority ?? intent.priority,
  };
}

function findSetup(
  intent: Intent,
  { tableName }: IntentRequest,
  machine: HostSnapshot,
): Setup | undefined {
  const setups = setupsOf(machine);
  if (tableName !== undefined) return setups.find(({ name }) => name === tableName);
  const [sample] = samplePackets(intent, machine, undefined);
  if (setups.length === 0 || sample === undefined) return undefined;
  const { family } = sample.packet.destination;
  const { passage } = gatherPath(machine, { ...sample, capture: undefined });
  return setups.find(({ marks }) =>
    marks.some(({ family: of, mark: { value, mask } }) => {
      return of === family && passage !== undefined && (passage.mark & mask) >>> 0 === value;
    }),
  );
}

/** Those that capture. */
function setupsOf({ ruleset }: HostSnapshot): Setup[] {
  const chains = (ruleset?.chains ?? []).filter(({ family }) => family === NFPROTO_INET);
  return [...Map.groupBy(chains, ({ table }) => table)].flatMap(([name, own]) => {
    const rules = own.flatMap((chain) => chain.rules);
    const ours = rules.filter(({ comment }) => comment?.startsWith(`${name}: `));
    const setup = setupFrom(name, [], ours);
    return setupOf(name) !== name || setup.draining || ours.length === 0 ? [] : [setup];
  });
}
