/** Lists of networks in files: `@FILE`. Pure: the text has been read. */

import { type Cidr, parseCidr } from "../net/cidr.ts";
import { ok, type Parsed, quote, refuse } from "../net/result.ts";

/** A file with a list of networks, or standard input (`-`): its text is read before it is used. */
export interface NetworkFile {
  /** As it is named; once it has been read for a configuration, wherever that is. */
  file: string;
  text?: string;
}

/** Found in the whole text at once: lists have 200,000 lines. */
const wordOrComment = /#[^\n]*|[^\s,#]+/g;

/**
 * The networks in a file whose text has been read. It has them between blanks, line breaks or
 * commas; what follows a `#` on its line is a comment.
 */
export function parseNetworkList({ file, text }: NetworkFile): Parsed<readonly Cidr[]> {
  if (text === undefined) throw new Error(`${file} has not been read`);
  const networks: Cidr[] = [];
  const words = text.match(wordOrComment) ?? [];
  for (const [at, word] of words.entries()) {
    if (word.startsWith("#")) continue;
    const parsed = parseCidr(word);
    if (!parsed.ok) {
      return refuse(`${quote(`@${file}`)}, line ${lineOf(text, at)}: ${parsed.error}`);
    }
    networks.push(parsed.value);
  }
  if (networks.length > 0) return ok(networks);
  // No network at all would capture every address: somebody's list has been lost.
  return refuse(`${quote(`@${file}`)} has no network in it: give at least one, one a line`);
}

/** The line of a word or comment, by its number in the text. */
function lineOf(text: string, at: number): number {
  const { index = 0 } = [...text.matchAll(wordOrComment)][at] ?? {};
  return text.slice(0, index).split("\n").length;
}
