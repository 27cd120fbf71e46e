/** How long an upgrade takes to move open connections to the new process, as its log has it. */

import { writeFileSync } from "node:fs";
import { join } from "node:path";

/** Of each connection this process has two descriptors, and so have the proxies. */
export const movedConnections = 4_000;

/** In ms; undefined: this executable moves none. */
export async function timeOfMove(exe: string, folder: string): Promise<number | undefined> {
  const upstream = Bun.listen({
    ...{ hostname: "127.0.0.1", port: 0 },
    socket: { data: (socket, bytes) => void socket.write(bytes) },
  });
  const file = join(folder, "moves.toml");
  const service = `[[service]]\nname = "web"\nlisten = "127.0.0.1:20000"\n`;
  writeFileSync(
    file,
    'workers = 2\n[log]\nformat = "json"\nconnections = "none"\n[admin]\nsocket = "none"\n' +
      `${service}to = "127.0.0.1:${upstream.port}"\ntransparent = false\nsource = "self"\n`,
  );
  const child = Bun.spawn([exe, "run", "-c", file], { stdout: "pipe", stderr: "inherit" });
  const log = new LogReader(child.stdout);
  let next: number | undefined;
  try {
    await log.find(/"event":"bound"/);
    for (let left = movedConnections; left > 0; left -= 100) {
      await Promise.all(Array.from({ length: Math.min(100, left) }, connected));
    }
    child.kill("SIGUSR2");
    const [, pid] = await log.find(/"event":"upgrade".*"pid":(\d+)/);
    next = Number(pid);
    const [text, ms] = await log.find(
      /"event":"moved".*"ms":(\d+)|"event":"upgrade-end"|may go on/,
    );
    return ms === undefined || text === undefined ? undefined : Number(ms);
  } finally {
    for (const pid of [child.pid, next]) if (pid !== undefined) kill(pid);
    upstream.stop(true);
  }
}

/** Settles once a byte has gone to the upstream and back. */
function connected(): Promise<void> {
  return new Promise((resolve, reject) => {
    void Bun.connect({
      ...{ hostname: "127.0.0.1", port: 20_000 },
      socket: {
        open: (socket) => void socket.write("x"),
        data: () => resolve(),
        connectError: (_, error) => reject(error),
      },
    });
  });
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It has ended.
  }
}

class LogReader {
  private text = "";
  private readonly chunks: AsyncIterator<Uint8Array>;

  constructor(stream: ReadableStream<Uint8Array>) {
    this.chunks = stream[Symbol.asyncIterator]();
  }

  /** The first match, behind that of the last call. @throws if the log ends without one */
  async find(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const found = pattern.exec(this.text);
      if (found !== null) {
        this.text = this.text.slice(found.index + found[0].length);
        return found;
      }
      const { value, done } = await this.chunks.next();
      if (done === true) throw new Error("tproxy has ended");
      this.text += new TextDecoder().decode(value);
    }
  }
}
