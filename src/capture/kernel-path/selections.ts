/** Selections as conditions of firewall rules, and the sets of their long lists. Pure. */

import type { Family } from "../../net/address.ts";
import { type Cidr, formatCidr } from "../../net/cidr.ts";
import { listedNetworksMax } from "../plan/contradictions.ts";
import type { Match } from "../plan/firewall-rule.ts";
import { aggregate } from "../plan/networks.ts";
import type { NetworkSet } from "../plan/plan.ts";
import type { Selection } from "./intent.ts";

/** Addresses that are not another host's alone. IPv6 has no broadcast. */
const notUnicast = {
  4: ["local", "broadcast", "anycast", "multicast"],
  6: ["local", "anycast", "multicast"],
} as const;

/** The conditions of selections, and the sets of their long lists. */
export class SelectionSets {
  readonly #sets = new Map<string, NetworkSet>();

  get all(): readonly NetworkSet[] {
    return [...this.#sets.values()];
  }

  /** The conditions on addresses; undefined: nothing of the family is selected. */
  selection(selection: Selection, family: Family): readonly Match[] | undefined {
    const { destination, sources, bypass } = selection;
    const from = this.#networks(sources, family);
    if (from === undefined) return undefined;
    const to = this.#destination(destination, family);
    if (to === undefined) return undefined;
    const left = bypass.length === 0 ? undefined : this.#networks(bypass, family);
    return [
      ...from.map((each) => ({ kind: "source", ...each }) as const),
      ...to,
      ...(left ?? []).map((each): Match => {
        return { kind: "except", match: { kind: "destination", ...each } };
      }),
    ];
  }

  #destination(wanted: Selection["destination"], family: Family): readonly Match[] | undefined {
    if (wanted === "own") return [{ kind: "own-destination" }];
    const not = notUnicast[family];
    if (wanted === "any") {
      return [{ kind: "destination-type", not: not.filter((type) => type !== "local") }];
    }
    if (wanted === "foreign") return [{ kind: "destination-type", not }];
    return this.#networks(wanted, family)?.map((each) => ({ kind: "destination", ...each }));
  }

  /** None where every address is meant; undefined where a list has nothing of the family. */
  #networks(
    list: readonly Cidr[],
    family: Family,
  ): readonly { readonly networks: readonly Cidr[]; readonly set?: string }[] | undefined {
    if (list.length === 0) return [];
    const networks = aggregate(list, family);
    if (networks.length === 0) return undefined;
    if (networks[0]?.prefix === 0) return [];
    if (networks.length <= listedNetworksMax) return [{ networks }];
    return [{ networks, set: this.#name(family, networks) }];
  }

  #name(family: Family, networks: NetworkSet["networks"]): string {
    const key = networks.map(formatCidr).join();
    const set = this.#sets.get(key) ?? {
      ...{ name: `networks${family}_${this.#sets.size + 1}`, family, networks },
    };
    this.#sets.set(key, set);
    return set.name;
  }
}
