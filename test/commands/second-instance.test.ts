/** A port that another process has, whatever options that has set: refused, with its name. */

import { afterEach, expect, test } from "bun:test";
import { cleanUp, cleanups } from "../helpers/forward.ts";
import { which } from "../helpers/tools.ts";
import { run, start } from "../helpers/tproxy.ts";

afterEach(cleanUp);

const forward = (address: string, more: readonly string[]) => [
  "forward",
  address,
  ...more,
  "--to",
  "127.0.0.1:9",
  "--source",
  "self",
  "--no-transparent",
];

/** Starts one on a free port; the port. */
async function first(more: readonly string[]) {
  const server = start(forward("127.0.0.1:0", more));
  cleanups.push(() => server.kill("SIGKILL"));
  const [, port] = await server.until(/\w+:\/\/127\.0\.0\.1:(\d+)\D/);
  return { pid: server.pid, port };
}

for (const protocol of ["--tcp", "--udp"]) {
  for (const workers of ["1", "2"]) {
    test(`${protocol} --workers ${workers}: a second instance is refused`, async () => {
      const { pid, port } = await first([protocol, "--workers", workers]);
      for (const address of [`127.0.0.1:${port}`, `:${port}`]) {
        const second = await run(forward(address, [protocol, "--workers", "2"]));
        expect(second.stderr).toContain(`port ${port} is held here by tproxy (pid ${pid})`);
        expect(second.status).toBe(1);
      }
    });
  }
}

const testWithPython = which("python3") === undefined ? test.skip : test;

for (const type of ["STREAM", "DGRAM"]) {
  testWithPython(`another program with SO_REUSEPORT, ${type}`, async () => {
    const program = `
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_${type})
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
s.bind(("127.0.0.1", 0))
if "${type}" == "STREAM": s.listen(1)
print(f"port {s.getsockname()[1]}", flush=True)
time.sleep(60)
`;
    const other = start([], { command: ["python3", "-c", program] });
    cleanups.push(() => other.kill("SIGKILL"));
    const [, port] = await other.until(/port (\d+)\D/);
    const protocol = type === "STREAM" ? "--tcp" : "--udp";
    for (const args of [
      forward(`127.0.0.1:${port}`, [protocol, "--workers", "2"]),
      ["listen", `127.0.0.1:${port}`, protocol, "--workers", "2", "--no-transparent"],
    ]) {
      const refused = await run(args);
      expect(refused.stderr).toMatch(new RegExp(`held here by python3\\S* \\(pid ${other.pid}\\)`));
      expect(refused.status).toBe(1);
    }
  });
}
