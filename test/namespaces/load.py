"""Clients that ask without a pause: load.py SECONDS PORT ADDRESS SOURCE... prints what they met.

Each source has a thread. It connects, is greeted, has some bytes echoed, and closes. Every attempt
is counted: `asked`, and each kind of error by its name.
"""

import collections
import json
import socket
import sys
import threading
import time

counts = collections.Counter()
lock = threading.Lock()


def ask(source, address, port):
    with socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET) as client:
        client.settimeout(20)
        client.bind((source, 0))
        client.connect((address, port))
        if b"sees" not in client.recv(4096):
            raise EOFError
        client.sendall(b"ping")
        if client.recv(4096) != b"ping":
            raise EOFError


def run(source, address, port, deadline):
    while time.monotonic() < deadline:
        try:
            ask(source, address, port)
            what = "answered"
        except OSError as error:
            what = type(error).__name__
        except EOFError:
            what = "cut off"
        with lock:
            counts["asked"] += 1
            counts[what] += 1


seconds, port, address, *sources = sys.argv[1:]
deadline = time.monotonic() + float(seconds)
threads = [
    threading.Thread(target=run, args=(source, address, int(port), deadline)) for source in sources
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(counts))
