#!/bin/sh
# A gateway: clients behind eth1 have this host as their router. Their web traffic goes through
# tproxy, and on to the address that each client asked for, from the client's own address.
# Run it as root. Ctrl-C, or a kill, takes the rules and routes away again.
set -eu

# This host must route: for the clients' other traffic, and for the replies of the servers.
sysctl -w net.ipv4.ip_forward=1

# What this system lacks, with the repair of each fault. While the gateway runs, "tproxy doctor
# --in eth1 --dport 80,443 --to-port 50080" checks the path of a client's packet as well.
tproxy doctor || true

# Networks that the clients reach without the proxy stay out (--bypass-private).
exec tproxy forward :50080 --to original \
  --routes auto --in eth1 --dport 80,443 --bypass-private \
  --max-connections-per-client 500 --idle-timeout 5m
