/** The shells that `tproxy completion` knows. */

import { bash, fish, nu, pwsh, type ShellCompletion, zsh } from "@optique/core/completion";

/** Its zsh parts values from descriptions by NUL, which our standard output shows as an escape. */
const zshByTab: ShellCompletion = {
  ...zsh,
  generateScript: (...args) => zsh.generateScript(...args).replaceAll("$'\\0'", () => "$'\\t'"),
  *encodeSuggestions(suggestions) {
    for (const line of zsh.encodeSuggestions(suggestions)) yield line.replaceAll("\0", "\t");
  },
};

/** By name: what makes the script of each shell, and the lines that the script reads. */
export const shells: Readonly<Record<string, ShellCompletion>> = {
  ...{ bash, fish, nu, pwsh },
  zsh: zshByTab,
};

/**
 * The completions of `tproxy completion PREFIX`, one a line; undefined for any other arguments.
 */
export function completeShells(args: readonly string[]): string | undefined {
  const [command, name = "", asked, prefix = "", ...rest] = args;
  const shell = Object.hasOwn(shells, name) ? shells[name] : undefined;
  if (command !== "completion" || asked !== "completion" || rest.length > 0) return undefined;
  if (shell === undefined) return undefined;
  const found = Object.keys(shells).filter((each) => each.startsWith(prefix));
  const lines = found.flatMap((text) => [
    ...shell.encodeSuggestions([{ kind: "literal", text }]),
    "\n",
  ]);
  return lines.join("");
}
