/** Lists of networks from the command line, from files and from standard input. */

import { type Cidr, formatCidr, parseCidr } from "../net/cidr.ts";
import { ok, quote } from "../net/result.ts";
import { UsageError } from "./failure.ts";
import type { InputFile } from "./input-file.ts";
import { makeValue, suggestFiles, type Value } from "./values.ts";

/** A network, or a file with a list of them. */
export type NetworkSource = Cidr | InputFile;

/** `192.0.2.0/24`, or `@FILE` for what is in a file, `@-` for standard input. */
export function networkSourceValue(): Value<NetworkSource> {
  return makeValue<NetworkSource>({
    metavar: "CIDR|@FILE",
    placeholder: { file: "-" },
    parse: (input) => (/^@./.test(input) ? ok({ file: input.slice(1) }) : parseCidr(input)),
    format: (source) => ("file" in source ? `@${source.file}` : formatCidr(source)),
    suggest: suggestFiles("@"),
  });
}

/**
 * The networks of some sources, whose files have been read. A file has networks between blanks,
 * line breaks or commas; what follows a `#` on its line is a comment.
 * @throws UsageError for what is no network
 */
export function readNetworks(sources: readonly NetworkSource[]): Cidr[] {
  return sources.flatMap((source) => ("file" in source ? listOf(source) : [source]));
}

function listOf({ file, text }: InputFile): Cidr[] {
  if (text === undefined) throw new Error(`${file} has not been read`);
  const networks = text.split("\n").flatMap((line, i) =>
    wordsOf(line).map((word) => {
      const parsed = parseCidr(word);
      if (parsed.ok) return parsed.value;
      throw new UsageError(`${quote(`@${file}`)}, line ${i + 1}: ${parsed.error}`);
    }),
  );
  if (networks.length > 0) return networks;
  // No network at all would capture every address: somebody's list has been lost.
  throw new UsageError(`${quote(`@${file}`)} has no network in it: give at least one, one a line`);
}

function wordsOf(line: string): readonly string[] {
  const [text = ""] = line.split("#", 1);
  return text.split(/[\s,]+/).filter((word) => word !== "");
}
