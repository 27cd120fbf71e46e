/** Which numbers of services are taken: read from the rules that ask for their marks. Pure. */

import { NFT_CT_MARK } from "../../../ffi/netlink/nftables/expr/ct.ts";
import { fromHostOrder32 } from "../../../ffi/netlink/nftables/registers.ts";
import type { FirewallRule } from "../../../ffi/netlink/nftables/rule.ts";
import { flowMarkMask, pathServicesMax } from "./intent.ts";

/** The numbers of services whose rules are among these. */
export function numbersIn(rules: readonly FirewallRule[]): Set<number> {
  const found = new Set<number>();
  for (const { expressions } of rules) {
    for (const [i, each] of expressions.entries()) {
      const [mask, value] = [expressions[i + 1], expressions[i + 2]];
      if (each.kind !== "ct" || each.key !== NFT_CT_MARK) continue;
      if (mask?.kind !== "bitwise" || value?.kind !== "cmp" || value.data.length !== 4) continue;
      if (fromHostOrder32(mask.mask) !== flowMarkMask) continue;
      found.add(fromHostOrder32(value.data) >>> 24);
    }
  }
  return found;
}

/** The lowest `count` numbers that are free; fewer where there are not so many. */
export function freeNumbers(taken: ReadonlySet<number>, count: number): number[] {
  const all = Array.from({ length: pathServicesMax }, (_, i) => i + 1);
  return all.filter((number) => !taken.has(number)).slice(0, count);
}
