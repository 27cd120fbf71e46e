/** The unit of one of several processes, made of the one for a single process. Pure. */

/**
 * The unit `tproxy@NAME.service` of one of several processes: with the configuration
 * /etc/tproxy/NAME.toml, and folders and an admin socket of its own.
 */
export function instanceUnit(unit: string): string {
  return unit
    .replace(/^Description=.*$/m, "$& (%i)")
    .replace("/etc/tproxy/tproxy.toml", "/etc/tproxy/%i.toml")
    .replace(/^ExecStart=/m, "Environment=TPROXY_ADMIN=/run/tproxy-%i/admin.sock\n$&")
    .replace(/^(Runtime|Logs)Directory=tproxy$/gm, "$&-%i");
}
