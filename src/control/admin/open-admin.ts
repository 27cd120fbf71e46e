/** Opens the admin sockets that a configuration asks for, or those of the usual places. */

import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import type { AdminConfiguration } from "../../config/admin.ts";
import { CommandError } from "../../errors.ts";
import { quote } from "../../net/result.ts";
import { findGroupId } from "../users.ts";
import { AdminServer, type AdminSockets } from "./admin-server.ts";
import { usualSockets } from "./places.ts";
import { type ControlSettings, type Server, ServerControl } from "./server-control.ts";

const readOnlyMode = 0o666;
const usualGroup = "tproxy";

/**
 * Serves the admin API. Where no socket is configured, `run` takes the first of the usual places
 * that can be had, and warns if there is none. Undefined: it is served nowhere.
 * @throws CommandError for a configured socket that cannot be served
 */
export async function openAdmin(
  configuration: AdminConfiguration,
  server: Server,
  settings: ControlSettings,
): Promise<AdminServer | undefined> {
  const { socket } = configuration;
  if (socket === "none") return undefined;
  const control = new ServerControl(server, settings);
  if (socket !== undefined)
    return await AdminServer.open(socketsAt(socket, configuration), control);
  if (settings.isNameless) return undefined;
  const problems: string[] = [];
  for (const path of usualSockets()) {
    try {
      mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
      return await AdminServer.open(socketsAt(path, configuration), control);
    } catch (error) {
      problems.push(error instanceof Error ? error.message : String(error));
    }
  }
  server.log.warn(`there is no admin socket ([admin] socket): ${problems.join("; ")}`);
  return undefined;
}

/** @throws CommandError for a group that does not exist */
function socketsAt(path: string, configuration: AdminConfiguration): AdminSockets {
  const { mode, group, readOnlySocket } = configuration;
  return {
    admin: { path, mode, gid: groupId(group) },
    readOnly:
      readOnlySocket === undefined
        ? undefined
        : { path: readOnlySocket, mode: readOnlyMode, gid: undefined },
  };
}

function groupId(group: AdminConfiguration["group"]): number | undefined {
  // Without privileges a file can be given to no other group.
  if (group === undefined) return process.getuid?.() === 0 ? findGroupId(usualGroup) : undefined;
  const id = typeof group === "number" ? group : findGroupId(group);
  if (id !== undefined) return id;
  throw new CommandError(`/etc/group has no group ${quote(String(group))}: set [admin] group`);
}
