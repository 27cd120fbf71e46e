/** Lists of networks from the command line, from files and from standard input. */

import { type NetworkSource, networkSyntax } from "../config/syntax.ts";
import { makeValue, suggestFiles, type Value } from "./options/values.ts";

/** `192.0.2.0/24`; `@FILE` reads a file, `@-` standard input. */
export function networkSourceValue(): Value<NetworkSource> {
  return makeValue<NetworkSource>({
    metavar: "CIDR|@FILE",
    placeholder: { file: "-" },
    ...networkSyntax,
    suggest: suggestFiles("@"),
  });
}
