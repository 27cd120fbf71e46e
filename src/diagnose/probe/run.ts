/** A whole probe: addresses, namespaces, packet, and why the rules dropped it. */

import { readFileSync, writeFileSync } from "node:fs";
import { SyscallError } from "../../../ffi/errno.ts";
import type { Address } from "../../net/address.ts";
import { formatAddress } from "../../net/address.ts";
import { type Finding, unknown } from "../checks/finding.ts";
import { judgePath, wayChecks } from "../checks/path.ts";
import { readHostSnapshot } from "../snapshot/host.ts";
import {
  type Capture,
  gatherPath,
  type PathFacts,
  type PathQuestion,
} from "../snapshot/path-facts.ts";
import { chooseAddresses } from "./addresses.ts";
import { droppedBy } from "./cause.ts";
import { Probe, probeInterface } from "./probe.ts";
import type { ProbedFlow, StandIn } from "./table.ts";
import { judgeProbe } from "./verdict.ts";

/** The packet to probe with. */
export interface ProbeRequest {
  readonly protocol: "tcp" | "udp";
  readonly destination: Address;
  readonly port: number;
  readonly capture: Capture | undefined;
  /** The packet that rules for other interfaces or sources are meant for; undefined: the probe. */
  readonly meant: PathQuestion | undefined;
}

/** Probes, and undoes everything. A lack of privileges is a finding too. */
export async function runProbe(
  request: ProbeRequest,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  const { destination } = request;
  const addresses = chooseAddresses(readHostSnapshot().policy[destination.family], destination);
  if (addresses === undefined) {
    return [
      unknown("probe", "No network is left for the probe's cable: all that it tries are in use."),
    ];
  }
  let probe: Probe;
  try {
    probe = new Probe(addresses);
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    return [refused(error)];
  }
  try {
    return await probeOn(probe, request, addresses.client, signal);
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    return [refused(error)];
  } finally {
    probe.close();
  }
}

function refused(error: SyscallError): Finding {
  const reasons: Readonly<Record<string, string>> = {
    EPERM: "it takes CAP_NET_ADMIN and CAP_SYS_ADMIN",
    EEXIST: `another probe is running (interface ${probeInterface})`,
  };
  const reason = reasons[error.code] ?? error.message;
  const repair = error.code === "EPERM" ? "sudo tproxy doctor --probe …" : undefined;
  return unknown("probe", `The probe could not be made: ${reason}.`, repair);
}

async function probeOn(
  probe: Probe,
  request: ProbeRequest,
  source: Address,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  const { protocol, destination, port, capture, meant } = request;
  const flow: ProbedFlow = { protocol, destination, port, iif: probeInterface };
  const question: PathQuestion = {
    packet: { protocol, source, destination, port, iif: probeInterface },
    capture,
  };
  const insteadOf = meant?.packet.iif ?? probeInterface;
  if (meant !== undefined) copySettings(insteadOf);
  const before = readHostSnapshot();
  const standIn =
    meant && standInFor(gatherPath(before, meant), gatherPath(before, question).passage?.mark);
  probe.watch(flow, standIn);
  const result = await probe.send(flow, signal);
  const facts = gatherPath(readHostSnapshot(), question);
  const read = judgePath(facts, wayChecks).find(({ severity }) => severity === "failure");
  const found = droppedBy(result.steps, facts) ?? read;
  // The probe's interface is gone when this is read.
  const named = (anyOther: string) => (meant === undefined ? anyOther : insteadOf);
  const text = found?.text.replaceAll(probeInterface, named("the probe's interface"));
  const repair = found?.repair?.replaceAll(probeInterface, named("IFACE"));
  const cause = found && {
    ...found,
    text: text ?? found.text,
    ...(repair === undefined ? {} : { repair }),
  };
  return judgeProbe({
    ...result,
    protocol,
    destination: formatAddress(destination),
    standIn,
    insteadOf,
    cause,
  });
}

/** Rules that match the real packet and not the probe's; undefined if they treat both alike. */
function standInFor({ passage, capture }: PathFacts, probed = 0): StandIn | undefined {
  if (passage === undefined || capture === undefined) return undefined;
  const { value, mask } = capture.mark;
  const isMarked = (mark: number) => (mark & mask) >>> 0 === value;
  if (!isMarked(passage.mark) || isMarked(probed)) return undefined;
  return { mark: passage.mark, tproxy: passage.tproxy ?? passage.missed };
}

/** The source checks of an interface, for the probe's; they are gone with it. */
function copySettings(from: string): void {
  for (const name of ["rp_filter", "src_valid_mark", "accept_local", "route_localnet"]) {
    const path = (iif: string) => `/proc/sys/net/ipv4/conf/${iif}/${name}`;
    try {
      writeFileSync(path(probeInterface), readFileSync(path(from)));
    } catch {
      // No such interface, or /proc/sys is read-only: then it has what all new ones have.
    }
  }
}
