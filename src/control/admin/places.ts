/** Where the admin socket is, if nobody says so. */

/** The paths in the order in which they are tried. */
export function usualSockets(): string[] {
  const { XDG_RUNTIME_DIR: own } = process.env;
  return ["/run/tproxy/admin.sock", ...(own ? [`${own}/tproxy/admin.sock`] : [])];
}
