/** The default places of the admin socket. */

/** The paths in the order in which they are tried: of `$TPROXY_ADMIN` alone, if that is set. */
export function usualSockets(): string[] {
  const { TPROXY_ADMIN: named, XDG_RUNTIME_DIR: own } = process.env;
  if (named) return [named];
  return ["/run/tproxy/admin.sock", ...(own ? [`${own}/tproxy/admin.sock`] : [])];
}
