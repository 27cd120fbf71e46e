import { formatMessage } from "@optique/core/message";
import { parse } from "@optique/core/parser";
import { routesCommand, runRoutes } from "../../src/cli/routes.ts";

/** What `tproxy routes …` prints and its exit status, without starting a process. */
export function routes(...args: string[]): { status: number; stdout: string; stderr: string } {
  const parsed = parse(routesCommand, ["routes", ...args]);
  if (!parsed.success) return { status: 2, stdout: "", stderr: formatMessage(parsed.error) };
  let stdout = "";
  let stderr = "";
  const status = runRoutes(parsed.value, {
    stdout: (text) => {
      stdout += text;
    },
    stderr: (text) => {
      stderr += text;
    },
  });
  return { status, stdout, stderr };
}

/** The script that `tproxy routes --print …` prints; throws if it prints none. */
export function printed(...args: string[]): string {
  const { status, stdout, stderr } = routes("--print", ...args);
  if (status !== 0) throw new Error(stderr);
  return stdout;
}
