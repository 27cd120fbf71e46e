import { readFileSync } from "node:fs";
import { formatMessage } from "@optique/core/message";
import { parse } from "@optique/core/parser";
import { routesCommand, runRoutes } from "../../src/cli/commands/routes.ts";
import { UsageError } from "../../src/errors.ts";

/** What `tproxy routes …` prints and its exit status, without starting a process. */
export function routes(...args: string[]): { status: number; stdout: string; stderr: string } {
  const parsed = parse(routesCommand, ["routes", ...args]);
  if (!parsed.success) return { status: 2, stdout: "", stderr: formatMessage(parsed.error) };
  load(parsed.value);
  const written = { stdout: "", stderr: "" };
  const write = (stream: keyof typeof written) => (text: string) => {
    written[stream] += text;
  };
  try {
    const out = { stdout: write("stdout"), stderr: write("stderr") };
    return { status: runRoutes(parsed.value, out), ...written };
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    return { status: error.status, stdout: written.stdout, stderr: error.message };
  }
}

/** The script that `tproxy routes --print …` prints; throws if it prints none. */
export function printed(...args: string[]): string {
  const { status, stdout, stderr } = routes("--print", ...args);
  if (status !== 0) throw new Error(stderr);
  return stdout;
}

/** Reads the files of lists at once, as a command does before it begins. */
function load(value: unknown): void {
  if (typeof value !== "object" || value === null) return;
  if ("file" in value) Object.assign(value, { text: readFileSync(String(value.file), "utf8") });
  else for (const each of Object.values(value)) load(each);
}
