/**
 * Firewalls as distributions and programs set them up, cut down to what a packet meets, and the
 * same with something that stops a captured connection. Scripts for the proxy host of `set-up.ts`.
 */

/** A firewall in front of a working capture of port 80. */
export interface RulesetCase {
  readonly name: string;
  /** Makes the rules. */
  readonly rules: string;
  /** They are made before the capture, whose chain of the same priority then runs first. */
  readonly isOlder?: true;
  /** What doctor has to name; absent: the connection works all the same. */
  readonly cause?: RegExp;
  /** What is done about it; absent: the command that doctor prints is run. */
  readonly repair?: string;
  readonly family?: 4 | 6;
  /** Datagrams in the place of connections, to port 80 as well. */
  readonly isUdp?: true;
  /** More of the arguments of the capture. */
  readonly capture?: string;
}

/** A chain of an own table, from its rules. */
function chain(hook: string, priority: string, policy: string, ...rules: readonly string[]) {
  const base = `type filter hook ${hook} priority ${priority}; policy ${policy};`;
  return `nft 'table inet filter { chain ${hook} { ${base} ${rules.join("; ")}; }; }'`;
}

const established = "ct state { established, related } accept";

/** The public zone of firewalld: what no service allows is rejected. IPv6 sources are validated. */
const firewalld = (...allowed: readonly string[]) => `nft 'table inet firewalld {
  chain filter_PREROUTING { type filter hook prerouting priority 10; policy accept
    icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
    meta nfproto ipv6 fib saddr . mark . iif oif missing drop; }
  chain filter_INPUT { type filter hook input priority 10; policy accept
    ct state { established, related } accept
    ct status dnat accept
    iifname "lo" accept
    ct state invalid drop
    jump filter_INPUT_ZONES
    reject with icmpx admin-prohibited; }
  chain filter_OUTPUT { type filter hook output priority 10; policy accept
    ct state { established, related } accept
    oifname "lo" accept
    ip6 daddr { ::/96, ::ffff:0:0/96, 2002:a00::/24 } reject with icmpv6 addr-unreachable; }
  chain filter_INPUT_ZONES { goto filter_IN_public; }
  chain filter_IN_public { jump filter_IN_public_allow
    meta l4proto { icmp, ipv6-icmp } accept
    reject with icmpx admin-prohibited; }
  chain filter_IN_public_allow { tcp dport 22 accept; ${allowed.join("; ")}; }
}'`;

/** Of ufw: what is not addressed to this host is dropped in front of what the user allows. */
const ufw = `iptables-restore -n <<RULES
*filter
:INPUT DROP
:ufw-before-input - [0:0]
:ufw-user-input - [0:0]
:ufw-not-local - [0:0]
-A INPUT -j ufw-before-input
-A INPUT -j ufw-user-input
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -p icmp --icmp-type echo-request -j ACCEPT
-A ufw-before-input -p udp --sport 67 --dport 68 -j ACCEPT
-A ufw-before-input -j ufw-not-local
-A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN
-A ufw-not-local -m addrtype --dst-type MULTICAST -j RETURN
-A ufw-not-local -m addrtype --dst-type BROADCAST -j RETURN
-A ufw-not-local -m limit --limit 3/min --limit-burst 10 -j LOG
-A ufw-not-local -j DROP
-A ufw-user-input -p tcp -m tcp --dport 80 -j ACCEPT
COMMIT
RULES`;

const docker = `iptables-restore -n <<RULES
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:FORWARD DROP
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
RULES`;

const libvirt = `iptables-restore -n <<RULES
*filter
:LIBVIRT_INP - [0:0]
-A INPUT -j LIBVIRT_INP
-A LIBVIRT_INP -i virbr0 -p udp -m udp --dport 53 -j ACCEPT
-A LIBVIRT_INP -i virbr0 -p tcp -m tcp --dport 67 -j ACCEPT
COMMIT
*nat
:LIBVIRT_PRT - [0:0]
-A POSTROUTING -j LIBVIRT_PRT
-A LIBVIRT_PRT -s 192.168.122.0/24 -d 224.0.0.0/24 -j RETURN
-A LIBVIRT_PRT -s 192.168.122.0/24 ! -d 192.168.122.0/24 -p tcp -j MASQUERADE --to-ports 1024-65535
COMMIT
*mangle
:LIBVIRT_PRT - [0:0]
-A POSTROUTING -j LIBVIRT_PRT
-A LIBVIRT_PRT -o virbr0 -p udp -m udp --dport 68 -j CHECKSUM --checksum-fill
COMMIT
RULES`;

/** kube-proxy and the kubelet: services by chance, and a mark whose packets are dropped. */
const kubernetes = `iptables-restore -n <<RULES
*nat
:KUBE-SERVICES - [0:0]
:KUBE-SVC - [0:0]
:KUBE-POSTROUTING - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment api -m tcp --dport 443 -j KUBE-SVC
-A KUBE-SVC -p tcp -m statistic --mode random --probability 0.5 -j DNAT --to 10.8.0.2:443
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
-A INPUT -j KUBE-FIREWALL
-A OUTPUT -j KUBE-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
COMMIT
RULES`;

const fail2ban = (address: string) => `iptables -N f2b-web
iptables -A INPUT -p tcp -m multiport --dports 80,443 -j f2b-web
iptables -A f2b-web -s ${address} -j REJECT --reject-with icmp-port-unreachable
iptables -A f2b-web -j RETURN`;

/** The connection works, and doctor says so. */
export const working: readonly RulesetCase[] = [
  {
    name: "nftables.conf of Debian: chains without rules",
    rules: `${chain("input", "0", "accept")}; ${chain("output", "0", "accept")}`,
  },
  {
    name: "a closed INPUT that accepts new connections to the port",
    rules: chain(
      "input",
      "0",
      "drop",
      established,
      'iifname "lo" accept',
      "tcp dport 80 ct state new accept",
    ),
  },
  {
    name: "limits that a connection does not exceed",
    rules: `${chain("prerouting", "-300", "accept", "tcp dport 80 limit rate over 100/second drop")}
      ${chain("input", "0", "drop", established, "tcp dport 80 limit rate 50/second accept")}
      nft 'table inet meters { set m { type ipv4_addr; flags dynamic; }
        chain in { type filter hook input priority 1;
          tcp dport 80 ct state new add @m { ip saddr limit rate over 50/second } drop
          tcp dport 80 ct count over 1000 reject; }; }'
      iptables -A INPUT -p tcp --dport 80 -m connlimit --connlimit-above 500 -j REJECT
      iptables -A INPUT -p tcp --dport 80 -m hashlimit --hashlimit-name h \\
        --hashlimit-above 100/sec --hashlimit-mode srcip -j DROP`,
  },
  {
    name: "verdict maps and concatenated sets",
    rules: `nft 'table inet filter {
      set clients { type ipv4_addr . inet_service; flags interval
        elements = { 10.9.0.0/24 . 80-90, 192.0.2.1 . 443 }; }
      map ports { type inet_service : verdict; elements = { 22 : accept, 80 : jump web }; }
      chain web { ip saddr . tcp dport @clients accept; }
      chain in { type filter hook input priority 0; policy drop
        ct state vmap { established : accept, related : accept, invalid : drop }
        iifname vmap { "lo" : accept, "p0" : jump from_clients }; }
      chain from_clients { tcp dport vmap @ports; }
    }'`,
  },
  { name: "docker", rules: docker },
  { name: "libvirt", rules: libvirt },
  { name: "kube-proxy and kubelet", rules: kubernetes },
  { name: "fail2ban, with another client banned", rules: fail2ban("192.0.2.66") },
  { name: "firewalld with the port allowed", rules: firewalld("tcp dport 80 accept") },
  {
    name: "a closed OUTPUT that lets answers out",
    rules: chain("output", "0", "drop", established, 'oifname "lo" accept'),
  },
  {
    name: "reverse-path rules that do not ask for the mark",
    rules: `${chain("prerouting", "-140", "accept", "fib saddr . iif oif missing drop")}
      iptables -t mangle -A PREROUTING -m rpfilter --invert -j DROP`,
  },
  {
    name: "the same with the mark, in a chain that runs before the capture's",
    rules: "iptables -t mangle -A PREROUTING -m rpfilter --validmark --invert -j DROP",
  },
  {
    name: "datagrams: firewalld with the port allowed, and a limit",
    rules: `${firewalld("udp dport 80 accept")}
      iptables -A INPUT -p udp --dport 80 -m state --state NEW -m limit --limit 9/s -j ACCEPT`,
    isUdp: true,
  },
  {
    name: "matches of iptables that say nothing of this packet",
    rules: `iptables -A INPUT -p tcp --tcp-flags ALL NONE -j DROP
      iptables -A INPUT -p tcp ! --syn -m conntrack --ctstate NEW -j DROP
      iptables -A INPUT -f -j DROP
      iptables -A INPUT -m pkttype --pkt-type broadcast -j DROP
      iptables -A INPUT -m iprange --src-range 192.0.2.1-192.0.2.9 -j DROP
      iptables -A INPUT -m addrtype --src-type LOCAL ! -i lo -j DROP
      iptables -A INPUT -m connmark --mark 0x9 -j DROP
      iptables -A OUTPUT -p tcp --sport 80 -m owner --uid-owner 12345 -j DROP
      iptables -t mangle -A PREROUTING -j CONNMARK --restore-mark --nfmask 0xf0 --ctmask 0xf0
      iptables -t mangle -A OUTPUT -j CONNMARK --restore-mark --nfmask 0xf0 --ctmask 0xf0`,
  },
  {
    name: "a table that sleeps",
    rules: `${chain("input", "0", "drop")}; nft 'add table inet filter { flags dormant; }'`,
  },
];

/** The connection is stopped; doctor names the rule, and the repair lets it through. */
export const broken: readonly RulesetCase[] = [
  {
    name: "the workstation of nftables' examples",
    rules: chain("input", "0", "accept", 'iif "lo" accept', established, "counter drop"),
    cause: /FAILURE +input +Rule inet filter input handle \d+ drops it/,
  },
  {
    name: "nftables.conf of Arch: a policy, and a reject with a limit",
    rules: chain(
      ...(["input", "0", "drop", "ct state invalid drop", established, 'iif "lo" accept'] as const),
      "ip protocol icmp accept; tcp dport 22 accept",
      "pkttype host limit rate 5/second counter reject with icmpx type admin-prohibited",
    ),
    cause: /FAILURE +input +Rule inet filter input handle \d+ drops it/,
  },
  {
    name: "a policy of drop",
    rules: chain("input", "0", "drop", established),
    cause: /FAILURE +input +The policy of chain inet filter input drops it/,
  },
  {
    name: "first packets alone are let in",
    rules: chain("input", "0", "drop", "ct state new tcp dport 80 accept"),
    cause: /FAILURE +later packets +The policy of chain inet filter input drops the later/,
  },
  {
    name: "a verdict map without the port",
    rules: `nft 'table inet filter { chain in { type filter hook input priority 0; policy drop
      ct state vmap { established : accept, related : accept, invalid : drop }
      tcp dport vmap { 22 : accept, 443 : accept }; }; }'`,
    cause: /FAILURE +input +The policy of chain inet filter in drops it/,
  },
  {
    name: "firewalld: a zone that rejects",
    rules: firewalld(),
    cause:
      /FAILURE +input +Rule inet firewalld filter_IN_public handle \\?\d+ drops .*\n.*firewall-cmd/,
    repair: "nft add rule inet firewalld filter_IN_public_allow tcp dport 80 accept",
  },
  {
    name: "firewalld: IPv6 sources looked up with the mark",
    rules: firewalld("tcp dport 80 accept"),
    family: 6,
    cause: /FAILURE +firewall +Rule inet firewalld filter_PREROUTING handle \d+ drops it/,
  },
  {
    name: "the same of iptables",
    rules: "iptables -t mangle -A PREROUTING -m rpfilter --validmark --invert -j DROP",
    isOlder: true,
    cause: /FAILURE +firewall +Rule ip mangle PREROUTING handle \d+ drops it/,
  },
  {
    name: "ufw, although the port is allowed",
    rules: ufw,
    cause: /FAILURE +input +Rule ip filter ufw-not-local handle \d+ drops it/,
  },
  {
    name: "kubelet's mark is ours",
    rules: kubernetes,
    capture: "--mark 0x8000/0x8000",
    cause: /FAILURE +input +Rule ip filter KUBE-FIREWALL handle \d+ drops it/,
  },
  {
    name: "fail2ban, with the client banned",
    rules: fail2ban("10.9.0.2"),
    cause: /FAILURE +input +Rule ip filter f2b-web handle \d+ drops it/,
  },
  {
    name: "a ban by a set of networks",
    rules: `nft 'table inet bans { set networks { type ipv4_addr; flags interval
      elements = { 10.9.0.0/28, 192.0.2.0/24 }; }
      chain in { type filter hook prerouting priority -310; ip saddr @networks drop; }; }'`,
    cause: /FAILURE +firewall +Rule inet bans in handle \d+ drops it/,
  },
  {
    name: "a closed OUTPUT",
    rules: chain("output", "0", "drop", "ct state new accept"),
    cause: /FAILURE +answer +The policy of chain inet filter output drops the SYN-ACK/,
  },
  {
    name: "datagrams: a port that is allowed for TCP alone",
    rules: chain("input", "0", "drop", established, "tcp dport 80 accept", "udp sport 53 accept"),
    isUdp: true,
    cause: /FAILURE +input +The policy of chain inet filter input drops it/,
  },
  {
    name: "datagrams: answers that do not leave, IPv6",
    rules: `ip6tables -P OUTPUT DROP; ip6tables -A OUTPUT -p ipv6-icmp -j ACCEPT
      ip6tables -A OUTPUT -p tcp -j ACCEPT`,
    isUdp: true,
    family: 6,
    cause: /FAILURE +answer +The policy of chain ip6 filter OUTPUT drops an answer/,
  },
  {
    name: "a drop in POSTROUTING",
    rules: chain("postrouting", "0", "accept", "tcp sport 80 ct direction reply drop"),
    cause: /FAILURE +answer +Rule inet filter postrouting handle \d+ drops the SYN-ACK/,
  },
  {
    name: "a drop at the interface itself",
    rules: `nft 'table netdev edge { chain in {
      type filter hook ingress device "p0" priority 0; tcp dport 80 drop; }; }'`,
    cause: /FAILURE +firewall +Rule netdev edge in handle \d+ drops it/,
  },
  {
    name: "NAT of the destination",
    rules: "iptables -t nat -A PREROUTING -i p0 -p tcp --dport 80 -j DNAT --to 10.8.0.2:8080",
    cause: /FAILURE +firewall +Rule ip nat PREROUTING handle \d+ rewrites its destination/,
  },
  {
    name: "another program's mark routes the answer elsewhere",
    rules: `iptables -t mangle -A OUTPUT -p tcp --sport 80 -j MARK --set-mark 0x20
      ip rule add fwmark 0x20/0x20 lookup 220 priority 20
      ip route add blackhole default table 220`,
    cause: /FAILURE +answer +The SYN-ACK from 203\.0\.113\.80 finds no route/,
    repair: "ip rule del priority 20; ip route flush table 220; iptables -t mangle -F OUTPUT",
  },
];

/** iptables' older kind: works, and broken. */
export const legacy: readonly RulesetCase[] = [
  {
    name: "rules that say nothing of this packet",
    rules: `iptables-legacy -P INPUT DROP
      iptables-legacy -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
      iptables-legacy -A INPUT -i u0 -j DROP
      iptables-legacy -A INPUT ! -s 10.9.0.0/24 -j DROP
      iptables-legacy -A INPUT -f -j DROP
      iptables-legacy -N web
      iptables-legacy -A INPUT -p tcp -m multiport --dports 80,443 -g web
      iptables-legacy -A web -p udp -j RETURN
      iptables-legacy -A web -i p+ -m limit --limit 100/second -j ACCEPT`,
  },
  {
    name: "a chain of a user's that drops",
    rules: `iptables-legacy -N web
      iptables-legacy -A INPUT -p tcp -m multiport --dports 80,443 -j web
      iptables-legacy -A web -d 192.0.2.1 -j ACCEPT
      iptables-legacy -A web -i p0 -s 10.9.0.0/24 -j REJECT`,
    cause: /FAILURE +input +Rule ip filter web rule 2 of iptables-legacy drops it/,
  },
  {
    name: "a policy",
    rules: "iptables-legacy -P INPUT DROP",
    cause: /FAILURE +input +The policy of chain ip filter INPUT of iptables-legacy drops it/,
    repair: "iptables-legacy -P INPUT ACCEPT",
  },
  {
    name: "IPv6 sources looked up with the mark",
    rules: "ip6tables-legacy -t mangle -A PREROUTING -m rpfilter --validmark --invert -j DROP",
    family: 6,
    isOlder: true,
    cause: /FAILURE +firewall +Rule ip6 mangle PREROUTING rule 1 of iptables-legacy drops it/,
  },
];

/** What cannot be told is neither passed over nor taken for certain. */
export const doubtful: readonly RulesetCase[] = [
  {
    name: "chance",
    rules: chain("input", "0", "accept", "tcp dport 80 numgen random mod 1000000 0 drop"),
    cause: /unknown +input +Whether it is let in depends on rule inet filter input handle \d+/,
  },
  {
    name: "a list of clients seen before",
    rules: "iptables -A INPUT -p tcp --dport 80 -m recent --name seen --rcheck -j DROP",
    cause: /unknown +input +Whether .* rule ip filter INPUT handle \d+, .*: -m recent/,
  },
  {
    name: "a doubt before the mark is set",
    rules:
      "iptables -t raw -A PREROUTING -m statistic --mode nth --every 100000 --packet 9 -j DROP",
    cause: /unknown +firewall +The path of the packet depends on rule ip raw PREROUTING handle \d+/,
  },
];
