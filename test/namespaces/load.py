"""Clients that ask without a pause: load.py SECONDS PORT ADDRESS SOURCE... prints what they met.

A word in place of SECONDS is a file: they end when it is there.

Each source has a thread. It connects, is greeted, has some bytes echoed, and closes. Every attempt
is counted: `asked`, and each kind of error by its name.
"""

import collections
import json
import os
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


def run(source, address, port, is_over):
    while not is_over():
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
deadline = time.monotonic() + (float(seconds) if seconds.isdigit() else 0)


def is_over():
    return time.monotonic() >= deadline if seconds.isdigit() else os.path.exists(seconds)


threads = [
    threading.Thread(target=run, args=(source, address, int(port), is_over)) for source in sources
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(counts))
