import { expect, test } from "bun:test";
import * as errno from "../../../../ffi/errno.ts";
import {
  type Attempt,
  explainRefusal,
  type Facts,
} from "../../../../src/diagnose/explain/refusal.ts";

const facts: Facts = {
  capabilities: new Set(),
  nonlocalBind: false,
  unprivilegedPortStart: 1024,
  addressIsLocal: false,
  interfaces: ["lo", "eth0"],
};
const attempt: Attempt = {
  what: "bind udp://8.8.8.8:53",
  address: "8.8.8.8",
  port: 53,
  isV6: false,
  transparent: true,
  freebind: false,
  device: undefined,
  remote: undefined,
};

const explain = (
  call: string,
  number: number,
  detail = "",
  changes: { attempt?: Partial<Attempt>; facts?: Partial<Facts> } = {},
) =>
  explainRefusal(
    new errno.SyscallError(call, number, detail),
    { ...attempt, ...changes.attempt },
    { ...facts, ...changes.facts },
  );

// Each: what the kernel refused, and what the explanation must name.
const table: [name: string, text: string, names: RegExp[]][] = [
  [
    "no capability at all",
    explain("setsockopt", errno.EPERM, "IP_TRANSPARENT"),
    [/IP_TRANSPARENT needs CAP_NET_ADMIN or CAP_NET_RAW/, /has neither/, /sudo/, /unshare -Urn/],
  ],
  [
    "a capability in the wrong user namespace",
    explain("setsockopt", errno.EPERM, "SO_MARK", {
      facts: { capabilities: new Set(["CAP_NET_ADMIN"]) },
    }),
    [/SO_MARK needs/, /has CAP_NET_ADMIN, but not in the user namespace/],
  ],
  [
    "an address of others, no option",
    explain("bind", errno.EADDRNOTAVAIL, "", { attempt: { transparent: false } }),
    [
      /8\.8\.8\.8 is not an address of this host/,
      /ip_nonlocal_bind is 0/,
      /neither IP_TRANSPARENT/,
    ],
  ],
  [
    "an IPv6 address of others",
    explain("bind", errno.EADDRNOTAVAIL, "", { attempt: { isV6: true, address: "2001:db8::9" } }),
    [/2001:db8::9 is not/, /net\.ipv6\.ip_nonlocal_bind/],
  ],
  ["a taken port", explain("bind", errno.EADDRINUSE), [/another socket holds port 53/, /ss -ulnp/]],
  [
    "a port of a process that is known",
    explain("listen", errno.EADDRINUSE, "", { facts: { holder: { pid: 7, name: "dnsmasq" } } }),
    [/EADDRINUSE: port 53 is held here by dnsmasq \(pid 7\)$/],
  ],
  [
    "a low port",
    explain("bind", errno.EACCES),
    [
      /ports below 1024 need CAP_NET_BIND_SERVICE/,
      /choose a port from 1024, .* AmbientCapabilities=CAP_NET_BIND_SERVICE,/,
    ],
  ],
  [
    "a link-local address without its interface",
    explain("bind", errno.EINVAL, "", { attempt: { isV6: true, address: "fe80::1" } }),
    [/needs its interface/, /%eth0/],
  ],
  [
    "an interface that is not there",
    explain("setsockopt", errno.ENODEV, "SO_BINDTODEVICE", { attempt: { device: "eth9" } }),
    [/no interface "eth9"/, /lo, eth0/],
  ],
  [
    "no IPv6 in the kernel",
    explain("socket", errno.EAFNOSUPPORT, "", { attempt: { isV6: true } }),
    [/no IPv6/],
  ],
  [
    "nobody listens",
    explain("connect", errno.ECONNREFUSED, "", { attempt: { remote: "192.0.2.1:80" } }),
    [/nothing listens on 192\.0\.2\.1:80/],
  ],
  [
    "replies that do not come back",
    explain("connect", errno.ETIMEDOUT, "", { attempt: { remote: "192.0.2.1:80" } }),
    [/replies go to 8\.8\.8\.8/, /routed back/],
  ],
  [
    "no route",
    explain("connect", errno.ENETUNREACH, "", { attempt: { remote: "192.0.2.1:80" } }),
    [/ENETUNREACH: no route from 8\.8\.8\.8 to 192\.0\.2\.1:80/],
  ],
  ["anything else", explain("bind", errno.ENOMEM), [/Cannot allocate memory \(ENOMEM\)/]],
];

for (const [name, text, names] of table) {
  test(name, () => {
    expect(text).toStartWith("Cannot bind udp://8.8.8.8:53: ");
    expect(text).not.toContain("\n");
    for (const pattern of names) expect(text).toMatch(pattern);
  });
}
