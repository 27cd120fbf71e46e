/** The settings of the admin socket. Pure. */

import { ok, quote, refuse } from "../net/result.ts";
import { setting, table, text } from "./kinds.ts";
import { identitySyntax, type Syntax } from "./syntax.ts";

/** What sockaddr_un has room for, without the zero behind it (unix(7)). */
const pathBytesMax = 107;

/** The path of a unix socket; Linux bounds its length. */
export const socketPathSyntax: Syntax<string> = {
  parse: (given) => {
    if (given === "" || /\p{C}/u.test(given)) {
      return refuse(`${quote(given)} is not accepted: give the path of a socket`);
    }
    const bytes = new TextEncoder().encode(given).length;
    if (bytes <= pathBytesMax) return ok(given);
    return refuse(
      `${quote(given)} has ${bytes} bytes: give a path of at most ${pathBytesMax} (unix(7))`,
    );
  },
  format: (given) => given,
};

/** A path from the root, or `none`. */
const absolute: Syntax<string> = {
  parse: (given) => {
    if (given === "none") return ok(given);
    const path = socketPathSyntax.parse(given);
    if (!path.ok || given.startsWith("/")) return path;
    return refuse(`${quote(given)} is not accepted: give a path that begins with "/", or "none"`);
  },
  format: (given) => given,
};

const modePattern = /^0[0-7]{3}$/;
const mode: Syntax<number> = {
  parse: (given) =>
    modePattern.test(given)
      ? ok(Number.parseInt(given, 8))
      : refuse(`${quote(given)} is not a mode: give four octal digits, "0660"`),
  format: (given) => given.toString(8).padStart(4, "0"),
};

const path = text(absolute, { examples: ["/run/tproxy/admin.sock", "none"] });

/** The table `[admin]`. */
export const admin = table({
  socket: setting(path, "Where status, kill and other commands find this process; none: nowhere."),
  mode: setting(
    text(mode, { examples: ["0660"], pattern: modePattern }),
    "The mode of the socket: who may write to it may change everything.",
  ),
  group: setting(
    text(identitySyntax, { examples: ["tproxy"], integers: true }),
    "The group of the socket; tproxy if there is one.",
  ),
  "read-only-socket": setting(
    text(absolute, { examples: ["/run/tproxy/stats.sock"] }),
    "Another socket, which everybody may read from and nobody can change anything through.",
  ),
});
