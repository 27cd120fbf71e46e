"""A client that uses its ports again: ports.py PROTOCOLS COUNT ADDRESS SOURCE PORT...

Of each protocol, to each port of the address, it asks from COUNT ports of the source, which are the
same each time, and prints what it is told.
"""

import socket
import sys

# Below those that the kernel chooses.
LOCAL_PORT = 20_000
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def ask(kind, source, destination):
    with socket.socket(socket.AF_INET6 if ":" in source[0] else socket.AF_INET, kind) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.settimeout(60)
        client.bind(source)
        client.connect(destination)
        if kind == socket.SOCK_DGRAM:
            client.send(b"?")
        return client.recv(4096).decode().strip()


protocols, count, address, source, *ports = sys.argv[1:]
for protocol in protocols.split(","):
    for port in map(int, ports):
        sources = [(source, LOCAL_PORT + i) for i in range(int(count))]
        told = {ask(KINDS[protocol], each, (address, port)) for each in sources}
        print(protocol, port, *sorted(told), sep="; ", flush=True)
