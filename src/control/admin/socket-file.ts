/** The file of an admin socket: who may open it, and what a process before this one has left. */

import { chmodSync, chownSync, lstatSync, unlinkSync } from "node:fs";
import { connect } from "node:net";
import { CommandError } from "../../errors.ts";
import { quote } from "../../net/result.ts";
import { type Handler, HttpServer } from "./http-server.ts";

/** Where an admin socket is. Those who may write to its file may connect to it. */
export interface SocketFile {
  readonly path: string;
  readonly mode: number;
  /** The group of the file; undefined: that of the process. */
  readonly gid: number | undefined;
}

/** The longest path in sockaddr_un, without the zero behind it (unix(7)). */
const pathBytesMax = 107;

/**
 * Listens at the file. A socket that a dead process has left is replaced; one that answers is not.
 * @throws CommandError
 */
export async function serveAt(file: SocketFile, handler: Handler): Promise<HttpServer> {
  const { path, mode, gid } = file;
  const bytes = Buffer.byteLength(path);
  if (bytes > pathBytesMax) {
    throw failed(path, `the path has ${bytes} bytes: give one of at most ${pathBytesMax}`);
  }
  await removeStale(path);
  // Until its mode and group are set, nobody else may connect.
  const before = process.umask(0o177);
  let server: HttpServer;
  try {
    server = new HttpServer(path, handler);
  } catch (error) {
    throw failed(path, codeOf(error));
  } finally {
    process.umask(before);
  }
  try {
    if (gid !== undefined) chownSync(path, -1, gid);
    chmodSync(path, mode);
  } catch (error) {
    server.stop();
    throw failed(path, `its group and mode cannot be set: ${codeOf(error)}`);
  }
  return server;
}

/** Removes a socket that nobody listens at. @throws CommandError for anything else at the path */
async function removeStale(path: string): Promise<void> {
  const there = lstatSync(path, { throwIfNoEntry: false });
  if (there === undefined) return;
  if (!there.isSocket()) throw failed(path, "there is a file that is no socket: remove it");
  const answer = await tryConnect(path);
  if (answer === "connected") throw failed(path, "another process listens there");
  if (answer !== "ECONNREFUSED") throw failed(path, `it cannot be tried: ${answer}`);
  try {
    unlinkSync(path);
  } catch (error) {
    throw failed(path, `the socket of a dead process cannot be removed: ${codeOf(error)}`);
  }
}

/** `connected`, or the code of the error. */
function tryConnect(path: string): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  const socket = connect({ path });
  socket.on("connect", () => resolve("connected"));
  socket.on("error", (error: NodeJS.ErrnoException) => resolve(codeOf(error)));
  return promise.finally(() => socket.destroy());
}

function codeOf(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  return code ?? message ?? String(error);
}

function failed(path: string, why: string): CommandError {
  return new CommandError(`Cannot serve the admin socket ${quote(path)}: ${why}`);
}
