/** Checks a configuration that is no file: its text came in a request. */

import { readConfiguration } from "../../config/file.ts";
import { configurationSystem } from "../config-system.ts";
import { type ProblemPlace, problemPlace } from "./problem.ts";

/** Stands for the text in problems. */
const name = "request";

/**
 * The problems of a configuration, TOML or JSON; none if it is valid. Files that it names are not
 * read: their words would be in the problems, and a client may not be allowed to read them.
 */
export async function checkText(text: string): Promise<readonly ProblemPlace[]> {
  const bytes = new TextEncoder().encode(text);
  const refuse = () => Promise.reject(new Error("files are not read for a request"));
  const { problems } = await readConfiguration(name, {
    ...configurationSystem,
    read: (path) => (path === name ? Promise.resolve(bytes) : refuse()),
    readList: refuse,
    list: refuse,
    identity: async (path) => path,
  });
  return problems.map(problemPlace);
}
