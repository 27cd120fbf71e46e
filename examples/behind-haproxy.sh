#!/bin/sh
# Behind HAProxy or nginx, which send the PROXY protocol: they see the client, tproxy reads its
# address from the header, and the backend sees it as the source. Run it as root on the same host.
#
# haproxy.cfg:  server backend 127.0.0.1:50080 send-proxy-v2
# nginx.conf:   server { listen 80; proxy_pass 127.0.0.1:50080; proxy_protocol on; }   (stream)
set -eu

# Only this host may name clients. At an address of this host nothing has to be captured, so
# "--routes auto" installs the way back for the backend's replies alone. The backend must route
# its replies through this host.
exec tproxy forward 127.0.0.1:50080 --to 192.0.2.10:8080 \
  --accept-proxy=127.0.0.0/8 --header-timeout 3s --routes auto
