/** What a service needs at its start, and what it has already. */

import { expect, test } from "bun:test";
import { parseListen } from "../../../src/config/listen.ts";
import { complete, type Service } from "../../../src/config/service.ts";
import { bindAddress } from "../../../src/control/endpoints.ts";
import { InheritedSockets } from "../../../src/control/inherited-sockets.ts";
import { forwardNeeds } from "../../../src/control/needs.ts";

test("listeners whose sockets are there need no privilege to bind", () => {
  const listen = parseListen("127.0.0.1:80");
  if (!listen.ok) throw new Error(listen.error);
  const [service] = complete({ service: [{ name: "a", listen: [listen.value] }] })
    .services as readonly [Service];
  const at = (port: number) => {
    const local = { address: Uint8Array.of(127, 0, 0, 1), port, scopeId: 0 };
    return { protocol: "tcp", local, fd: 9, inode: 1 } as never;
  };
  const unbound = (port: number) => {
    const inherited = new InheritedSockets([at(port)]);
    return service.listen.filter(
      ({ protocol, endpoint }) => !inherited.has({ protocol, local: bindAddress(endpoint) }),
    );
  };
  expect(forwardNeeds(service, false, {}, unbound(80))).toEqual([]);
  expect(forwardNeeds(service, false, {}, unbound(81))).not.toEqual([]);
  expect(forwardNeeds(service, false, {})).toEqual(forwardNeeds(service, false, {}, unbound(81)));
});
