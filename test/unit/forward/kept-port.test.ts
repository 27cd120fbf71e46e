/** When another port is taken than the client's: by the call that refused it. */

import { expect, test } from "bun:test";
import { EACCES, EADDRINUSE, EADDRNOTAVAIL, EMFILE } from "../../../ffi/errno.ts";
import { keptPortRefusal } from "../../../src/forward/kept-port.ts";

test.each([
  ["bind", EADDRINUSE, "is in use"],
  ["bind", EACCES, "needs CAP_NET_BIND_SERVICE"],
  ["connect", EADDRNOTAVAIL, "is in use"],
  // A firewall refuses it: another port would not help.
  ["connect", EACCES, undefined],
  // The address is the reason.
  ["bind", EADDRNOTAVAIL, undefined],
  ["socket", EMFILE, undefined],
])("%s, errno %i", (call, errno, refusal) => {
  expect(keptPortRefusal({ call, errno })).toBe(refusal);
});

test("a socket that was opened", () => expect(keptPortRefusal(7)).toBeUndefined());
