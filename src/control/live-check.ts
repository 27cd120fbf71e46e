/**
 * Compares a configuration with this host, and with the process that runs: what could not be
 * opened, found or installed, and what a reload would change. Nothing is changed. Sockets are bound
 * for a moment, and listen at nothing.
 */

import { EACCES, EPERM, SyscallError } from "../../ffi/errno.ts";
import * as sys from "../../ffi/sys.ts";
import { openKernel } from "../capture/live/kernel.ts";
import { changeLine, difference } from "../config/diff.ts";
import type { Configuration, Listener, Service } from "../config/service.ts";
import { fileSetting } from "../config/setting-words.ts";
import type { Settings } from "../config/settings.ts";
import { overlaps } from "../diagnose/lookup.ts";
import { bindSocket } from "../engine/sockets.ts";
import { CommandError } from "../errors.ts";
import { quote } from "../net/result.ts";
import { conflictsOf, explained } from "./apply-rules.ts";
import { bindAddress } from "./endpoints.ts";
import { hasInterface } from "./interface-names.ts";
import { refusal } from "./listeners.ts";
import { lookUp } from "./look-up.ts";
import type { ProcessIo } from "./process-io.ts";
import { identify, loadContext } from "./routes-context.ts";
import { captureRequest } from "./server/captures.ts";
import { type CapturingService, intentsOf } from "./server/capturing.ts";
import { ServiceProblem } from "./server/issues.ts";
import { listenerOptions } from "./server/running-service.ts";
import { fileWords } from "./server/words.ts";
import { findGroupId, findUser } from "./users.ts";

/** One thing that was found. A warning may be as it is meant. */
export interface LiveFinding {
  readonly event: "problem" | "warning" | "change" | "upgrade";
  readonly text: string;
}

/** A process that runs: what it serves. */
export interface RunningConfiguration {
  readonly settings: Settings;
  readonly services: readonly Service[];
}

/** Everything that is found; `running` is undefined where nothing runs. */
export async function checkLive(
  configuration: Configuration,
  running: RunningConfiguration | undefined,
  io: ProcessIo,
): Promise<LiveFinding[]> {
  const services = configuration.services.filter(({ isEnabled }) => isEnabled);
  const own = (running?.services ?? []).flatMap(({ listen }) => listen);
  return [
    ...accounts(configuration),
    ...(await names(services)),
    ...services.flatMap(interfaces),
    ...services.flatMap((service) => sockets(service, own)),
    ...(await rules(configuration, services, running, io)),
    ...(running === undefined ? [] : changes(running.settings, configuration.settings)),
  ];
}

const problem = (text: string): LiveFinding => ({ event: "problem", text });
const warning = (text: string): LiveFinding => ({ event: "warning", text });

/** Users and groups that the process would become, or give its socket to. */
function accounts({ user, admin }: Configuration): LiveFinding[] {
  const found: LiveFinding[] = [];
  if (user !== undefined && findUser(user) === undefined) {
    found.push(problem(`user: /etc/passwd has no user ${quote(user)}`));
  }
  const { group } = admin;
  if (typeof group === "string" && findGroupId(group) === undefined) {
    found.push(problem(`admin.group: /etc/group has no group ${quote(group)}`));
  }
  return found;
}

/** Names of upstreams that have no address. */
async function names(services: readonly Service[]): Promise<LiveFinding[]> {
  const owners = new Map<string, string>();
  for (const { route } of services) {
    for (const { to } of route.pool.upstreams) {
      if (to !== "original" && typeof to.host === "string") owners.set(to.host, route.pool.name);
    }
  }
  const found = await Promise.all(
    [...owners].map(async ([name, pool]) => {
      const { problem: why } = await lookUp(name, () => undefined);
      return why === ""
        ? []
        : [problem(`pool ${quote(pool)}: ${quote(name)} is not found: ${why}`)];
    }),
  );
  return found.flat();
}

/** Interfaces that are named and not there: they may come. */
function interfaces({ name, capture }: Service): LiveFinding[] {
  return (capture.in ?? [])
    .filter((each) => !each.endsWith("*") && !hasInterface(each))
    .map((each) =>
      warning(`service ${quote(name)}: capture.in: there is no interface ${quote(each)}`),
    );
}

/** Sockets that could not be bound; those of the process that runs are its own. */
function sockets(service: Service, own: readonly Listener[]): LiveFinding[] {
  return service.listen.flatMap((listener) => {
    const { protocol, endpoint } = listener;
    const options = { ...listenerOptions(service), protocol };
    const where = `service ${quote(service.name)}: listen: `;
    if (own.some((each) => isSamePlace(each, listener))) return [];
    let local: ReturnType<typeof bindAddress>;
    try {
      local = bindAddress(endpoint);
    } catch (error) {
      return [problem(where + textOf(error))];
    }
    try {
      sys.close(bindSocket(options, local));
      return [];
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      const { message } = refusal(error, options, local, { kind: "receive" });
      const isOfUser = error.errno === EPERM || error.errno === EACCES;
      // The user that runs the service may have more privileges than the one that asks.
      return [isOfUser ? warning(`${where}not tried: ${message}`) : problem(where + message)];
    }
  });
}

/** Whether a process that has the one can give its place to the other. */
function isSamePlace(one: Listener, other: Listener): boolean {
  if (one.protocol !== other.protocol || one.endpoint.port !== other.endpoint.port) return false;
  const bytes = ({ endpoint }: Listener) => endpoint.address?.bytes ?? new Uint8Array(4);
  return overlaps({ local: bytes(one) }, { local: bytes(other) });
}

/** What keeps the rules from being installed beside those of others. */
async function rules(
  configuration: Configuration,
  services: readonly Service[],
  running: RunningConfiguration | undefined,
  io: ProcessIo,
): Promise<LiveFinding[]> {
  const { routes } = configuration;
  const found: LiveFinding[] = [];
  const capturing = services.flatMap((service): CapturingService[] => {
    try {
      return [capturingService(service, routes)];
    } catch (error) {
      found.push(problem(textOf(error)));
      return [];
    }
  });
  // Those of the process that runs are there, and its own.
  const isThere = running?.settings.routes?.install === "auto";
  if (routes.install !== "auto" || found.length > 0 || isThere) return found;
  try {
    const { mark, table, priority } = routes;
    const request = { mark, table, priority, tableName: routes["table-name"] };
    const build = (identified: Parameters<typeof intentsOf>[1]) =>
      intentsOf(capturing, identified, true);
    const [usual] = build({ request: request as never, takenBits: 0 });
    if (usual === undefined) return found;
    const lines = await explained("check", fileSetting, () => {
      const kernel = openKernel();
      try {
        const identified = identify(kernel, request as never, usual.intent, "fresh");
        return conflictsOf(loadContext(kernel, build(identified), io), fileSetting);
      } finally {
        kernel.close();
      }
    });
    found.push(...lines.map((line) => problem(`[routes]: ${line}`)));
  } catch (error) {
    const isOfUser = process.getuid?.() !== 0;
    const text = textOf(error);
    found.push(isOfUser ? warning(`[routes]: not tried: ${text}`) : problem(`[routes]: ${text}`));
  }
  return found;
}

function capturingService(service: Service, routes: Configuration["routes"]): CapturingService {
  const sockets = service.listen.map(({ protocol, endpoint }) => ({
    ...{ fd: -1 as never, protocol },
    local: bindAddress(endpoint),
  }));
  return { service, request: captureRequest(service, routes), sockets, upstreams: { fixed: [] } };
}

/** What a reload would change, and what only an upgrade could. */
function changes(before: Settings, after: Settings): LiveFinding[] {
  // Given to the process on its command line, perhaps.
  const user = after.user ?? before.user;
  const socket = after.admin?.socket ?? before.admin?.socket;
  const admin = socket === undefined ? after.admin : { ...after.admin, socket };
  const next = {
    ...after,
    ...(user === undefined ? {} : { user }),
    ...(admin === undefined ? {} : { admin }),
  };
  const { changes: all, upgrades } = difference(before, next);
  const needed = new Set(upgrades.map(changeLine));
  return all.map((change): LiveFinding => {
    const text = changeLine(change);
    return { event: needed.has(text) ? "upgrade" : "change", text };
  });
}

/** The text of an error that is a user's matter. @throws any other one */
function textOf(error: unknown): string {
  if (error instanceof ServiceProblem) return fileWords.problem(error);
  if (error instanceof CommandError) return error.message;
  throw error;
}
