/** The rule that dropped a probe, and the change that would let it pass. Pure. */

import {
  NF_DROP,
  NF_INET_LOCAL_OUT,
  NF_INET_POST_ROUTING,
} from "../../../ffi/netlink/constants.ts";
import type { TraceStep } from "../../../ffi/netlink/nftables/trace.ts";
import { answerPacket } from "../checks/answer.ts";
import { type Finding, failure } from "../checks/finding.ts";
import { repairOf } from "../checks/firewall.ts";
import { subject } from "../checks/firewall-words.ts";
import { letThrough } from "../checks/repairs.ts";
import { chainName, touchOf } from "../nft-evaluator/hooks.ts";
import type { PathFacts } from "../snapshot/path-facts.ts";

/** The finding about the last drop of a trace; undefined if there was none. */
export function droppedBy(steps: readonly TraceStep[], facts: PathFacts): Finding | undefined {
  const at = steps.findLastIndex(({ verdict }) => verdict === NF_DROP);
  const step = steps[at];
  if (step === undefined) return undefined;
  const find = ({ family, table, chain }: TraceStep) =>
    facts.chains.find((each) => {
      return each.family === family && each.table === table && each.name === chain;
    });
  // A packet is in a base chain before it jumps to others.
  const base = steps
    .slice(0, at + 1)
    .filter(({ id }) => id === step.id)
    .map(find)
    .findLast((chain) => chain?.base !== undefined);
  const rule = find(step)?.rules.find(({ handle }) => handle === step.handle);
  const name = chainName({ ...step, name: step.chain });
  const named =
    rule === undefined
      ? { rule: step.isPolicy ? name : `${name} handle ${step.handle ?? "?"}` }
      : touchOf(rule);
  const touch = {
    ...named,
    ...(step.isPolicy ? { isPolicy: true as const } : {}),
    ...(base === undefined ? {} : { base: chainName(base) }),
  };
  const hook = base?.base?.hook;
  const isAnswer = hook === NF_INET_LOCAL_OUT || hook === NF_INET_POST_ROUTING;
  const repair = isAnswer
    ? letThrough(touch, answerPacket(facts), facts.chains)
    : repairOf(touch, facts);
  return failure("firewall", `${subject(touch)} drops it.`, repair);
}
