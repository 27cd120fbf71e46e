/** Act 5: the same with IPv6. */

import { AF_INET6, SOCK_CLOEXEC, SOCK_DGRAM } from "../../ffi/constants.ts";
import * as sys from "../../ffi/sys.ts";
import { playBinding } from "./bind-scenario.ts";
import type { Scenario } from "./context.ts";
import { playRemoved } from "./gaps-scenario.ts";
import { playReach } from "./reach-scenario.ts";
import { Topology } from "./topology.ts";

export const ipv6Act: Scenario = {
  title: "The same with IPv6",
  intro:
    "The client is 2001:db8::2, the box 2001:db8::1, and the address that nobody has is " +
    "2001:4860:4860::8888. IPv6 has routes and ip rules of its own.",
  obstacle: () => {
    const fd = sys.socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return "this kernel has no IPv6";
    sys.close(fd);
    return undefined;
  },
  play: async (context) => {
    await using scene = await Topology.set(6, context);
    await playBinding(context, scene.cable, 6);
    await playReach(context, scene);
    for (const kind of ["firewall", "rule", "route"] as const) {
      await playRemoved(context, scene, kind);
    }
  },
};
