/** Reads files that options name, and standard input, before a command begins. */

import type { NetworkFile } from "../config/networks.ts";
import { InputError, readInput } from "../control/read-input.ts";
import { networkListBytesMax } from "../engine/limits.ts";
import { UsageError } from "../errors.ts";
import { quote } from "../net/result.ts";

/**
 * Reads every file that is named anywhere in `options`. Signals end the process meanwhile.
 * @throws UsageError for a file that cannot be read or has no end
 */
export async function loadFiles(options: unknown): Promise<void> {
  const files = [...filesIn(options)];
  if (files.filter(({ file }) => file === "-").length > 1) {
    throw new UsageError('standard input can be read once: give "@-" to one option only');
  }
  for (const each of files) {
    try {
      each.text = new TextDecoder().decode(await readInput(each.file, networkListBytesMax));
    } catch (error) {
      if (!(error instanceof InputError)) throw error;
      const name = quote(`@${each.file}`);
      throw new UsageError(`Cannot read ${name}: ${error.message}; give a readable file`);
    }
  }
}

/** The files in an object of options, and in the lists in it. */
function* filesIn(value: unknown): Generator<NetworkFile> {
  if (Array.isArray(value)) for (const each of value) yield* filesIn(each);
  else if (isFile(value)) yield value;
  else if (isPlain(value)) for (const each of Object.values(value)) yield* filesIn(each);
}

function isFile(value: unknown): value is NetworkFile {
  return isPlain(value) && "file" in value;
}

function isPlain(value: unknown): value is object {
  return typeof value === "object" && value !== null && value.constructor === Object;
}
