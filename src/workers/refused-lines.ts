/** The lines about system calls that a sandbox rejects, and without which the program goes on. */

import { describeErrno } from "../../ffi/errno.ts";
import { refused } from "../../ffi/refused-calls.ts";
import type { Task } from "./protocol.ts";

type Call = keyof typeof refused;

const substitutes: Readonly<Record<Call, string>> = {
  accept4: "accept(2) and fcntl(2) are used",
  recvmmsg: "datagrams are received one by one",
  sendmmsg: "datagrams are sent one by one",
  splice: "bytes are copied through this process",
};

/** One line: the call, the errno and what is done instead, which costs more CPU. */
export function refusedLine(call: Call, errno: number): string {
  const error = describeErrno(errno);
  return `${call}(2) is refused here: ${error}: ${substitutes[call]}, which costs more CPU`;
}

/** A line for each refused call that Workers with this task would make. */
export function refusedLines(task: Task): string[] {
  if (task.kind !== "forward" && task.kind !== "respond") return [];
  const carries = (name: "tcp" | "udp") => task.sockets.some(({ protocol }) => protocol === name);
  const calls: Call[] = [];
  if (carries("tcp")) calls.push("accept4");
  if (carries("tcp") && task.kind === "forward") calls.push("splice");
  if (carries("udp")) calls.push("recvmmsg", "sendmmsg");
  return calls.flatMap((call) => (refused[call] === 0 ? [] : [refusedLine(call, refused[call])]));
}
