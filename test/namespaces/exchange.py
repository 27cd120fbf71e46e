"""Both ends of many connections whose streams prove themselves.

exchange.py server PORT LOG [ADDRESS]  a line in LOG for each connection: id, kind, what it saw
exchange.py client ADDRESS PORT CONNECTIONS PARALLEL BYTES SEED LOG
                                       about BYTES in all, both ways together; KINDS in the
                                       environment, of all of them, says which kinds. Where all are
                                       parallel, `begun` is printed once all are connected
exchange.py stall ADDRESS PORT CONNECTIONS   asks for streams without end, and reads nothing; resets
                                       them when its input ends
exchange.py judge CLIENT-LOG SERVER-LOG CONNECTIONS [STALLED]
                                       waits until both logs are whole: a server notes a reset only
                                       after the kernel has forgotten the connection

A stream is random data in chunks of random sizes, with pauses, and its SHA-256 at the end. What an
end saw is `whole` (a stream with its digest, then its end), `reset`, or what is wrong.
"""

import errno
import hashlib
import os
import random
import socket
import struct
import sys
import threading
import time

# The kinds of connection, what the client sees of its end and what the server does.
KINDS = {
    "both": ("whole", "whole"),  # both ways at once, each ends its own side when it is through
    "asks": ("whole", "whole"),  # the client ends its side before the server begins
    "late": ("whole", "whole"),  # the client does not read for a while
    "first": ("whole", "whole"),  # the server is through before the client begins
    "client-resets": ("resets", "reset"),
    "server-resets": ("reset", "resets"),
    "resets-half-closed": ("resets", "reset"),  # the client ends its side, later it resets
}
NAMES = list(KINDS)
CHOSEN = os.environ.get("KINDS", " ".join(KINDS)).split()
HEADER = struct.Struct("!IBQ")
POOL = memoryview(random.Random(116).randbytes(1 << 22))
CHUNK_MAX = 1 << 18
# The number of the first stalled connection.
STALLED = 1_000_000
TIMEOUT = 60
# How long the judge waits for lines that are missing.
LOG_TIMEOUT = 10


def chunks(total, rng):
    """Of the pool, in sizes from a byte to 256 KiB, small ones as often as large ones."""
    while total > 0:
        size = min(total, int(2 ** rng.uniform(0, 18)) if rng.random() < 0.5 else CHUNK_MAX)
        at = rng.randrange(len(POOL) - size)
        yield POOL[at : at + size]
        total -= size


def send_stream(s, total, rng):
    digest = hashlib.sha256()
    for chunk in chunks(total, rng):
        digest.update(chunk)
        s.sendall(chunk)
        if rng.random() < 0.02:
            time.sleep(rng.uniform(0, 0.02))
    s.sendall(digest.digest())
    s.shutdown(socket.SHUT_WR)


def receive_stream(s, rng, prefix=b""):
    """What was seen of a stream to its end, and its bytes."""
    digest, tail, count = hashlib.sha256(), prefix, 0
    while True:
        data = s.recv(1 << rng.randrange(10, 19))
        if not data:
            break
        count += len(data)
        tail += data
        digest.update(tail[:-32])
        tail = tail[-32:]
        if rng.random() < 0.02:
            time.sleep(rng.uniform(0, 0.02))
    return ("whole" if digest.digest() == tail else "cut off"), count


def reset(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def attempt(what):
    """The result, or the error by its name.

    A reset is ECONNRESET, or once another thread has been told of it, EPIPE and ENOTCONN.
    """
    try:
        return what()
    except EOFError:
        return "an early end"
    except OSError as error:
        known = error.errno in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN)
        return "reset" if known else errno.errorcode.get(error.errno, str(error))


def at_once(one, other):
    """Runs both; the first that did not succeed speaks for both."""
    results = [None, None]

    def run(index, what):
        results[index] = attempt(what)

    thread = threading.Thread(target=run, args=(0, one))
    thread.start()
    run(1, other)
    thread.join()
    return results[1] if results[0] is None else results[0]


def receive_exactly(s, count):
    data = b""
    while len(data) < count:
        part = s.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def client_side(s, kind, up, rng):
    def send():
        return send_stream(s, up, rng)

    def receive():
        return receive_stream(s, rng)[0]

    if kind == "both":
        return at_once(send, receive)
    if kind == "asks":
        send()
        return receive()
    if kind == "late":
        return at_once(send, lambda: time.sleep(0.5) or receive())
    if kind == "first":
        saw = receive()
        send()
        return saw
    if kind == "server-resets":
        return at_once(send, receive)
    if kind == "resets-half-closed":
        send()
    else:
        for chunk in chunks(up, rng):
            s.sendall(chunk)
    receive_exactly(s, rng.randrange(1, 100_000))
    reset(s)
    return "resets"


def endless(s):
    while True:
        s.sendall(POOL[:CHUNK_MAX])


def server_side(s, kind, down, rng):
    def send():
        return send_stream(s, down, rng)

    def receive():
        return receive_stream(s, rng)[0]

    if kind in ("both", "late"):
        return at_once(send, receive)
    if kind == "asks":
        saw = receive()
        send()
        return saw
    if kind == "first":
        send()
        return receive()
    if kind == "server-resets":
        receive_exactly(s, rng.randrange(1, 100_000))
        for chunk in chunks(down, rng):
            s.sendall(chunk)
        reset(s)
        return "resets"
    if kind == "resets-half-closed":
        saw = receive()
        return saw if saw != "whole" else attempt(lambda: endless(s))
    return at_once(lambda: endless(s), lambda: read_to_end(s))


def read_to_end(s):
    while s.recv(CHUNK_MAX):
        pass
    return "an end"


class Log:
    def __init__(self, path):
        self.file = open(path, "a", buffering=1)
        self.lock = threading.Lock()

    def write(self, *words):
        with self.lock:
            print(*words, file=self.file)


def serve(port, log, address=None):
    if address is None:
        both = {"family": socket.AF_INET6, "dualstack_ipv6": True}
        listener = socket.create_server(("::", port), backlog=1024, **both)
    else:
        listener = socket.create_server((address, port), backlog=1024)

    def run(s, peer):
        s.settimeout(TIMEOUT)
        try:
            number, kind, down = HEADER.unpack(receive_exactly(s, HEADER.size))
        except (OSError, EOFError) as error:
            s.close()
            return log.write("-", "-", f"no header from {peer}: {error!r}")
        name = NAMES[kind]
        saw = attempt(lambda: server_side(s, name, down, random.Random(number)))
        log.write(number, name, saw)
        s.close()

    while True:
        accepted = listener.accept()
        threading.Thread(target=run, args=accepted, daemon=True).start()


def ask(address, port, connections, parallel, total, seed, log):
    numbers = iter(range(connections))
    lock = threading.Lock()
    all_there = threading.Barrier(parallel, lambda: print("begun", flush=True))
    each = total // connections // 2

    def one(number):
        rng = random.Random(f"{seed} {number}")
        kind = CHOSEN[number % len(CHOSEN)]
        up, down = int(each * rng.uniform(0, 2)), int(each * rng.uniform(0, 2))
        if "resets" in kind:
            up = max(100_000, min(up, 1_000_000))
        s = socket.create_connection((address, port), timeout=TIMEOUT)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, rng.randrange(2))
        if parallel == connections:
            all_there.wait()
        s.sendall(HEADER.pack(number, NAMES.index(kind), down))
        saw = attempt(lambda: client_side(s, kind, up, rng))
        log.write(number, kind, saw)
        s.close()

    def work():
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            if (why := attempt(lambda: one(number))) is not None:
                log.write(number, "-", why)

    threads = [threading.Thread(target=work) for _ in range(parallel)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def stall(address, port, connections):
    sockets = [socket.create_connection((address, port)) for _ in range(connections)]
    for index, s in enumerate(sockets):
        s.sendall(HEADER.pack(STALLED + index, NAMES.index("client-resets"), 0))
    sys.stdin.read()
    for s in sockets:
        reset(s)


def has_lines(path, count):
    with open(path) as log:
        return sum(1 for _ in log) >= count


def judge(client_log, server_log, connections, stalled=0):
    """Prints what was not as it has to be; the status says whether there was any."""
    deadline = time.monotonic() + LOG_TIMEOUT
    wanted = ((client_log, connections), (server_log, connections + stalled))
    while not all(has_lines(*each) for each in wanted) and time.monotonic() < deadline:
        time.sleep(0.02)
    wrong = []
    for end, path in enumerate((client_log, server_log)):
        found = {}
        for line in open(path):
            number, kind, saw = line.rstrip("\n").split(" ", 2)
            found.setdefault(number, []).append((kind, saw))
        for number in range(connections):
            kind = CHOSEN[number % len(CHOSEN)]
            expected = [(kind, KINDS[kind][end])]
            if (got := found.pop(str(number), None)) != expected:
                wrong.append(f"{('client', 'server')[end]} {number} {kind}: {got}")
        for number in range(STALLED, STALLED + stalled):
            if end == 1 and (got := found.pop(str(number), None)) != [("client-resets", "reset")]:
                wrong.append(f"server {number} stalled: {got}")
        wrong += [f"{path} {number}: {got}" for number, got in found.items()]
    print("\n".join(wrong) or "all as it has to be")
    return 1 if wrong else 0


if __name__ == "__main__":
    command, *args = sys.argv[1:]
    if command == "server":
        serve(int(args[0]), Log(args[1]), *args[2:])
    elif command == "client":
        ask(args[0], *map(int, args[1:6]), Log(args[6]))
    elif command == "stall":
        stall(args[0], int(args[1]), int(args[2]))
    else:
        sys.exit(judge(*args[:2], *map(int, args[2:])))
