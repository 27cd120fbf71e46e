/** The default places of the admin socket. */

/** The paths in the order in which they are tried. */
export function usualSockets(): string[] {
  const { XDG_RUNTIME_DIR: own } = process.env;
  return ["/run/tproxy/admin.sock", ...(own ? [`${own}/tproxy/admin.sock`] : [])];
}
