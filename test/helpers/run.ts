/** `tproxy run` for tests: a configuration file that is written anew, and read again. */

import { mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { cleanups, eventsOf } from "./forward.ts";
import { eventually, type Running, type StartOptions, start } from "./tproxy.ts";

export interface RunServer {
  readonly proxy: Running;
  readonly file: string;
  /** Writes the configuration, asks for a reload by SIGHUP, and awaits its answer in the log. */
  reload(text: string): Promise<void>;
}

/** The part of a configuration that all tests have: a log of JSON. */
const head = '[log]\nformat = "json"\n';

/** Starts `run` with a configuration, and waits until it has bound all that it is to listen at. */
export async function runServer(
  text: string,
  listeners: number,
  options: StartOptions & { readonly args?: readonly string[] } = {},
): Promise<RunServer> {
  const folder = await mkdtemp(join(tmpdir(), "tproxy-run-"));
  const file = join(folder, "tproxy.toml");
  const write = async (content: string) => {
    await writeFile(`${file}.new`, content.includes("[log]") ? content : head + content);
    await rename(`${file}.new`, file);
  };
  await write(text);
  const proxy = start(["run", "-c", file, ...(options.args ?? [])], { cwd: folder, ...options });
  cleanups.push(async () => {
    proxy.kill("SIGKILL");
    await proxy.finished();
    await rm(folder, { recursive: true, force: true });
  });
  if (listeners > 0) await proxy.until(/"bound"/);
  await eventually("all listeners", () => eventsOf(proxy, "bound").length >= listeners);
  const answers = () =>
    eventsOf(proxy, "reloaded").length +
    eventsOf(proxy, "warning").filter(({ text: line }) =>
      /^reload: nothing was changed/.test(String(line)),
    ).length;
  return {
    proxy,
    file,
    async reload(content) {
      await write(content);
      const before = answers();
      proxy.kill("SIGHUP");
      await eventually("the answer to a reload", () => answers() > before).catch((error) => {
        throw new Error(`${error}: ${proxy.stderr()} ${proxy.stdout().slice(-3_000)} ${content}`);
      });
    },
  };
}
