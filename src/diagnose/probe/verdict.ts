/** Where a probe ended, from the counters at its hops. Pure. */

import { type Finding, failure, ok, unknown } from "../checks/finding.ts";
import type { Hop, StandIn } from "./table.ts";

/** All that was seen of a probe. */
export interface ProbeSeen {
  readonly protocol: "tcp" | "udp";
  readonly destination: string;
  readonly counts: Readonly<Record<Hop, number>>;
  /** TCP: what became of the client's connection. UDP: whether an answer came. */
  readonly outcome: "connected" | "refused" | "timeout" | "answered" | "sent";
  /** Counters of the IP layer that have moved meanwhile, as `TcpExtIPReversePathFilter +1`. */
  readonly moved: readonly string[];
  readonly standIn: StandIn | undefined;
  /** The interface that the stand-in speaks for. */
  readonly insteadOf: string;
  /** The first fault in the rules and tables for the same packet, if any. */
  readonly cause: Finding | undefined;
}

/** The findings about a probe: a line for each hop that it passed, and the one where it ended. */
export function judgeProbe(seen: ProbeSeen): readonly Finding[] {
  return [...standInFinding(seen), ...hopFindings(seen)];
}

function standInFinding({ standIn, insteadOf }: ProbeSeen): Finding[] {
  if (standIn === undefined) return [];
  const text =
    `The rules for ${insteadOf} do not match the probe's own interface. What they do by their ` +
    `text, mark 0x${standIn.mark.toString(16)}` +
    `${standIn.tproxy === undefined ? "" : ` and TPROXY to port ${standIn.tproxy.port}`}, a rule ` +
    "of the probe's does in their place; all else is the real thing.";
  return [ok("stand-in", text)];
}

function hopFindings(seen: ProbeSeen): Finding[] {
  const { counts, protocol, destination, outcome, moved } = seen;
  const passed: Finding[] = [];
  const pass = (hop: string, text: string) => void passed.push(ok(hop, text));
  const evidence = moved.length === 0 ? "" : ` (${moved.join(", ")})`;
  const end = (hop: string, text: string): Finding[] => {
    const { cause } = seen;
    const why = cause === undefined ? "" : ` ${cause.text}`;
    return [...passed, failure(hop, `${text}${evidence}.${why}`, cause?.repair)];
  };
  const what = protocol === "tcp" ? "The SYN" : "The datagram";
  if (counts.arrival === 0) return end("arrival", `${what} never came in by the probe's interface`);
  pass("arrival", `${what} came in.`);
  if (counts.prerouted === 0) return end("prerouting", `${what} was dropped in PREROUTING`);
  pass("prerouting", "The firewall let it through.");
  if (counts.forwarded > 0) {
    const text = `${what} was routed on, past the proxy; here the probe has stopped it`;
    return end("routing", text);
  }
  if (counts.delivered === 0) return end("routing", `${what} was dropped when it was routed`);
  pass("routing", `It was routed to this host: ${destination} is local to it.`);
  if (counts.accepted === 0) return end("input", `${what} was dropped in INPUT`);
  pass("input", "The firewall let it in.");
  if (outcome === "connected") {
    pass("socket", "A listener took it, and its SYN-ACK reached the client: connected.");
    return passed;
  }
  if (outcome === "answered") {
    pass("socket", "A socket took it, and answered.");
    return passed;
  }
  if (outcome === "refused") return end("socket", "It was refused: no socket took it");
  if (protocol === "udp") return [...passed, ...datagramEnd(seen, evidence)];
  if (counts.answered === 0) return end("socket", "No SYN-ACK was made: no socket took it");
  pass("socket", "A listener took it and made an answer.");
  if (counts.sent === 0) return end("answer", "The answer did not leave by the probe's interface");
  return end("answer", "The answer left, but did not reach the client");
}

/** UDP owes no answer: that nobody refused it is all there is. */
function datagramEnd({ moved, cause }: ProbeSeen, evidence: string): Finding[] {
  if (moved.some((each) => /^Udp6?NoPorts /.test(each)) || cause !== undefined) {
    const why = cause === undefined ? "" : ` ${cause.text}`;
    return [failure("socket", `No socket took it${evidence}.${why}`, cause?.repair)];
  }
  if (moved.some((each) => /^Udp6?InDatagrams /.test(each))) {
    return [ok("socket", "A socket took it. It has not answered, which UDP does not ask for.")];
  }
  return [unknown("socket", "Whether a socket took it cannot be told: it has not answered.")];
}
