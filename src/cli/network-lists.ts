/** Lists of networks from the command line, from files and from standard input. */

import { parseNetworkList } from "../config/networks.ts";
import { type NetworkSource, networkSyntax } from "../config/syntax.ts";
import { UsageError } from "../errors.ts";
import type { Cidr } from "../net/cidr.ts";
import { makeValue, suggestFiles, type Value } from "./options/values.ts";

/** `192.0.2.0/24`, or `@FILE` for what is in a file, `@-` for standard input. */
export function networkSourceValue(): Value<NetworkSource> {
  return makeValue<NetworkSource>({
    metavar: "CIDR|@FILE",
    placeholder: { file: "-" },
    ...networkSyntax,
    suggest: suggestFiles("@"),
  });
}

/**
 * The networks of some sources, whose files have been read.
 * @throws UsageError for what is no network
 */
export function readNetworks(sources: readonly NetworkSource[]): Cidr[] {
  return sources.flatMap((source) => {
    if (!("file" in source)) return [source];
    const list = parseNetworkList(source);
    if (!list.ok) throw new UsageError(list.error);
    return list.value;
  });
}
