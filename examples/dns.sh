#!/bin/sh
# DNS over UDP and TCP: whatever resolver a client behind eth1 asks, 192.0.2.53 replies, and the
# reply comes from the address that the client asked. Run it as root on the clients' gateway.
set -eu

# A session ends 2 s after its reply, so that a short burst of queries holds few descriptors.
# The resolver itself is left alone: its own queries go their usual way.
exec tproxy forward :50053 --udp --tcp --to 192.0.2.53:53 \
  --routes auto --in eth1 --dport 53 --bypass 192.0.2.53 \
  --udp-timeout 53=2s --max-sessions-per-client 200
