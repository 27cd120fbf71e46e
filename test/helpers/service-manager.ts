/** A service manager for tests: it hears sd_notify(3), keeps descriptors, and passes sockets. */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM } from "../../ffi/constants.ts";
import { check } from "../../ffi/errno.ts";
import { allocate } from "../../ffi/memory.ts";
import * as sys from "../../ffi/sys.ts";
import { encodeSockaddrUn, receiveUnix } from "../../ffi/unix-socket.ts";
import { eventually, tproxy } from "./tproxy.ts";

const name = allocate(128);

/** A process that it has started. */
export interface Managed {
  readonly pid: number;
  output(): string;
  kill(signal: NodeJS.Signals): void;
  readonly exited: Promise<number>;
}

export class TestManager {
  readonly folder = mkdtempSync(join(tmpdir(), "tproxy-manager-"));
  /** All messages so far, in their order. */
  readonly messages: string[] = [];
  /** By name, the descriptors that it keeps. */
  readonly store = new Map<string, number>();
  private readonly path = join(this.folder, "notify");
  private readonly fd: number;
  private readonly timer: ReturnType<typeof setInterval>;
  private readonly running: Managed[] = [];

  constructor() {
    this.fd = check(sys.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
    check(sys.bind(this.fd, name.address, encodeSockaddrUn(name.view, this.path)), "bind");
    this.timer = setInterval(() => this.receive(), 2);
  }

  /** Starts `tproxy run` with a configuration, and passes these descriptors by their names. */
  run(
    configuration: string,
    passed: readonly (readonly [name: string, fd: number])[] = [],
    env: Readonly<Record<string, string>> = {},
  ): Managed {
    const file = join(this.folder, "tproxy.toml");
    writeFileSync(file, configuration);
    const child = Bun.spawn({
      cmd: ["sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh", ...tproxy, "run", "-c", file],
      stdio: ["ignore", "pipe", "pipe", ...passed.map(([, fd]) => fd)],
      env: {
        ...process.env,
        NOTIFY_SOCKET: this.path,
        LISTEN_FDS: String(passed.length),
        LISTEN_FDNAMES: passed.map(([each]) => each).join(":"),
        ...env,
      } as Record<string, string>,
    });
    let output = "";
    const read = async (stream: ReadableStream<Uint8Array>) => {
      const decoder = new TextDecoder();
      for await (const chunk of stream) output += decoder.decode(chunk, { stream: true });
    };
    const drained = Promise.all([read(child.stdout), read(child.stderr)]);
    const managed: Managed = {
      pid: child.pid,
      output: () => output,
      kill: (signal) => child.kill(signal),
      exited: (async () => {
        await child.exited;
        await drained;
        return child.exitCode ?? -1;
      })(),
    };
    this.running.push(managed);
    return managed;
  }

  /** Waits until a message matches; from now on only later ones are looked at. */
  async heard(pattern: RegExp): Promise<string> {
    await eventually(`${pattern} in ${JSON.stringify(this.messages)}`, () =>
      this.messages.some((each) => pattern.test(each)),
    );
    const at = this.messages.findIndex((each) => pattern.test(each));
    return this.messages.splice(0, at + 1).at(-1) as string;
  }

  async close(): Promise<void> {
    for (const each of this.running) each.kill("SIGKILL");
    await Promise.all(this.running.map(({ exited }) => exited));
    clearInterval(this.timer);
    for (const fd of [this.fd, ...this.store.values()]) sys.close(fd);
    rmSync(this.folder, { recursive: true });
  }

  /** Receives what has arrived; otherwise that happens every 2 ms. */
  receive(): void {
    for (;;) {
      const message = receiveUnix(this.fd);
      if (typeof message === "number") return;
      const text = new TextDecoder().decode(message.bytes);
      const [, named = ""] = /^FDNAME=(.*)$/m.exec(text) ?? [];
      if (text.startsWith("FDSTORE=1\n")) this.store.set(named, message.descriptors[0] as number);
      if (text.startsWith("FDSTOREREMOVE=1\n")) {
        sys.close(this.store.get(named) ?? -1);
        this.store.delete(named);
      }
      this.messages.push(text);
    }
  }
}
