"""Both ends of datagrams that prove themselves, over IPv4 and IPv6.

datagrams.py echo PORT               answers each datagram with itself
datagrams.py exchange ADDRESS PORT ROUNDS SIZES [WINDOW]
                                     numbered ones of these sizes, a window at a time; each comes
                                     back in its order
datagrams.py streams-server PORT     the other end of the next one
datagrams.py streams ADDRESS PORT SESSIONS COUNT SEED
                                     each session carries COUNT numbered datagrams of random sizes
                                     each way, both ways at once, and no more than fits into the
                                     buffers on their way; each has to be the next one, and whole
datagrams.py sources ADDRESS PORT COUNT PREFIX
                                     asks once from each of COUNT sources of a /16 or /64 that is
                                     local here, a hundred at a time; all have to be answered
datagrams.py ask ADDRESS PORT COUNT [BYTES] [TIMEOUT]
                                     one after the other, of so many bytes; what became of each
datagrams.py insist ADDRESS PORT BYTES
                                     again and again, until one has been answered
datagrams.py sink PORT               counts what comes from each sender, and says it when asked
datagrams.py burst ADDRESS PORT COUNT SIZE
                                     so many at once; how many have arrived there
datagrams.py beside ADDRESS PORT     busy clients, and among them slow ones to the same destination
datagrams.py last-words ADDRESS PORT answers once, and once there is a file `stopped` three times
                                     more, and then says by ICMP that nobody is there
datagrams.py listen ADDRESS PORT     its client, which makes a file `answered` at the first answer
datagrams.py header-server PORT      prints the TTL and TOS of what arrives, answers with its own
datagrams.py header ADDRESS PORT     the same of the answer
"""

import os
import random
import select
import socket
import struct
import sys
import time

WINDOW = 16
POOL = random.Random(116).randbytes(1 << 16)
# Session, number of this datagram (NONE: it only acknowledges), how many have been received.
HEADER = struct.Struct("!III")
NONE = 0xFFFFFFFF


def client(address, port, timeout=10):
    # Of a link-local address, with its interface.
    family, _, _, _, name = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(timeout)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    s.connect(name)
    return s


def server(port):
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    s.bind(("::", port))
    print("bound", flush=True)
    return s


def echo(port):
    s = server(port)
    while True:
        data, peer = s.recvfrom(70_000)
        try:
            s.sendto(data, peer)
        except ConnectionRefusedError:
            pass


def exchange(address, port, rounds, sizes, window=1):
    s = client(address, port)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sizes = [int(size) for size in str(sizes).split(",")]

    def payload(number):
        size = sizes[number % len(sizes)]
        return (number.to_bytes(4, "big") * (size // 4 + 1))[:size]

    sent = 0
    for number in range(rounds):
        while sent < rounds and sent - number < window:
            s.send(payload(sent))
            sent += 1
        data = s.recv(70_000)
        assert data == payload(number), (number, len(data), len(payload(number)))
    print("exchanged", rounds, flush=True)


class Stream:
    """One end of a session: what it sends, and what it expects."""

    def __init__(self, send, session, count, seed, end):
        self.send, self.session, self.count = send, session, count
        self.sizes = random.Random(f"{seed} {session} {end}")
        self.expected = random.Random(f"{seed} {session} {1 - end}")
        self.sent = self.received = self.acknowledged = 0

    @staticmethod
    def body(rng):
        # Now and then one that has to be sent in fragments.
        size = rng.randrange(1453, 4000) if rng.random() < 0.02 else rng.randrange(1441)
        at = rng.randrange(len(POOL) - size)
        return POOL[at : at + size]

    def advance(self, answering=False):
        start = self.sent
        while self.sent < self.count and self.sent - self.acknowledged < WINDOW:
            header = HEADER.pack(self.session, self.sent, self.received)
            self.send(header + self.body(self.sizes))
            self.sent += 1
        if answering and self.sent == start:
            self.send(HEADER.pack(self.session, NONE, self.received))

    def take(self, data):
        session, number, acknowledged = HEADER.unpack_from(data)
        assert session == self.session, f"session {session} in {self.session}"
        self.acknowledged = max(self.acknowledged, acknowledged)
        if number == NONE:
            assert len(data) == HEADER.size
            return self.advance()
        assert number == self.received, f"{session}: {number}, not {self.received}"
        assert data[HEADER.size :] == self.body(self.expected), f"{session}: {number} is changed"
        self.received += 1
        self.advance(answering=True)

    @property
    def is_whole(self):
        return self.received == self.acknowledged == self.count


def streams_server(port):
    s = server(port)
    streams = {}
    while True:
        data, peer = s.recvfrom(70_000)
        if peer not in streams:
            # The first one says what is to come.
            session, count, seed = HEADER.unpack(data)
            streams[peer] = Stream(lambda d, to=peer: s.sendto(d, to), session, count, seed, 1)
            streams[peer].advance()
        else:
            streams[peer].take(data)


def streams(address, port, sessions, count, seed):
    open_streams = {}
    for session in range(sessions):
        s = client(address, port)
        s.send(HEADER.pack(session, count, seed))
        # It begins once it is answered: before that hosts look for each other, and keep but a few.
        open_streams[s] = Stream(s.send, session, count, seed, 0)
    while open_streams:
        ready = select.select(list(open_streams), [], [], 20)[0]
        left = [(each.sent, each.received, each.acknowledged) for each in open_streams.values()]
        assert ready, f"sent, received and acknowledged: {left}"
        for s in ready:
            open_streams[s].take(s.recv(70_000))
            if open_streams[s].is_whole:
                del open_streams[s]
    print("whole", sessions, flush=True)


def source_of(prefix, number):
    if ":" in prefix:
        return socket.inet_pton(socket.AF_INET6, f"{prefix}{number + 1:x}")
    return socket.inet_pton(socket.AF_INET, f"{prefix}{number >> 8}.{number & 255}")


def sources(address, port, count, prefix):
    v6 = ":" in prefix
    family = socket.AF_INET6 if v6 else socket.AF_INET
    level, option, recv = (41, 50, 49) if v6 else (0, 8, 8)
    answered = 0
    while answered < count:
        # The first one by itself, while hosts look for each other.
        first, step = answered, 100 if answered else 1
        s = socket.socket(family, socket.SOCK_DGRAM)
        s.settimeout(10)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        s.setsockopt(level, recv, 1)
        if v6:
            # Of IPv6 a source that is local by a route alone needs IPV6_FREEBIND.
            s.setsockopt(level, 78, 1)
        wanted = {}
        for number in range(first, min(count, first + step)):
            source = source_of(prefix, number)
            wanted[source] = b"%d" % number
            info = source + bytes(4) if v6 else bytes(4) + source + bytes(4)
            s.sendmsg([wanted[source]], [(level, option, info)], 0, (address, port))
        while wanted:
            data, control, _, peer = s.recvmsg(100, 256)
            info = control[0][2]
            assert peer[:2] == (address, port), peer
            assert wanted.pop(info[:16] if v6 else info[8:12]) == data
            answered += 1
        s.close()
    print("answered", answered, flush=True)


def attempt(s, number, size):
    try:
        s.send(number.to_bytes(2, "big") * (size // 2))
        return str(len(s.recv(70_000)))
    except TimeoutError:
        return "silence"
    except OSError as error:
        return str(error.errno)


def ask(address, port, count, size=2, timeout=10):
    s = client(address, port, float(timeout))
    print("outcomes", *(attempt(s, number, size) for number in range(count)), flush=True)


def insist(address, port, size):
    s = client(address, port, 0.3)
    for number in range(60):
        if attempt(s, number, size) == str(size):
            return print("outcomes", size, flush=True)
    print("outcomes silence", flush=True)


def sink(port):
    s = server(port)
    counts = {}
    while True:
        data, peer = s.recvfrom(70_000)
        if data == b"how many":
            s.sendto(b"%d" % counts.get(peer, 0), peer)
        else:
            counts[peer] = counts.get(peer, 0) + 1


def burst(address, port, count, size):
    def arrived(s):
        s.send(b"how many")
        return int(s.recv(100))

    # By then hosts have found each other: before that they keep but a few.
    assert arrived(client(address, port)) == 0
    # One that has had no answer yet is read at the listener, whose buffer is large.
    s = client(address, port)
    for _ in range(count):
        s.send(bytes(size))
    for _ in range(50):
        if arrived(s) == count:
            break
        time.sleep(0.1)
    print("arrived", arrived(s), flush=True)


def beside(address, port):
    """The slow ones send without waiting; the busy ones have a socket made for each of them."""
    slow = [client(address, port) for _ in range(5)]
    sent, got = 0, {s: [] for s in slow}

    def tick(budget):
        nonlocal sent
        if budget:
            slow[sent % 5].send(b"slow %d" % sent)
            sent += 1
        for s in select.select(slow, [], [], 0)[0]:
            got[s].append(s.recv(100))

    for turn in range(5):
        busy = client(address, port)
        for number in range(60):
            busy.send(b"busy %d %d" % (turn, number))
            while not select.select([busy], [], [], 0.004)[0]:
                tick(True)
            data = busy.recv(100)
            assert data == b"busy %d %d" % (turn, number), (turn, number, data)
    deadline = time.monotonic() + 10
    while sum(map(len, got.values())) < sent and time.monotonic() < deadline:
        tick(False)
    for index, s in enumerate(slow):
        assert got[s] == [b"slow %d" % number for number in range(index, sent, 5)], got[s]
    print("each its own", flush=True)


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def last_words(address, port):
    v6 = ":" in address
    family = socket.AF_INET6 if v6 else socket.AF_INET
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.bind((address, port))
    print("bound", flush=True)
    _, peer = s.recvfrom(100)
    s.sendto(b"first", peer)
    while not os.path.exists("stopped"):
        time.sleep(0.01)
    for number in range(3):
        s.sendto(b"last %d" % number, peer)
    ends = socket.inet_pton(family, peer[0]) + socket.inet_pton(family, address)
    udp = struct.pack("!HHHH", peer[1], port, 8, 0)
    if v6:
        # The kernel writes the checksum of ICMPv6.
        message = struct.pack("!BBHIIHBB", 1, 4, 0, 0, 6 << 28, 8, 17, 64) + ends + udp
    else:
        quoted = struct.pack("!BBHHHBBH", 0x45, 0, 28, 0, 0, 64, 17, 0) + ends + udp
        total = checksum(struct.pack("!BBHI", 3, 3, 0, 0) + quoted)
        message = struct.pack("!BBHI", 3, 3, total, 0) + quoted
    raw = socket.socket(family, socket.SOCK_RAW, 58 if v6 else 1)
    raw.sendto(message, (peer[0], 0))
    s.close()
    print("said", flush=True)


def listen(address, port):
    """Asks, tells that it was answered, and then says what else comes."""
    s = client(address, port)
    s.send(b"question")
    assert s.recv(100) == b"first"
    open("answered", "w").close()
    while True:
        try:
            print("heard", s.recv(100).decode(), flush=True)
        except ConnectionRefusedError:
            # The kernel tells of it before it gives what it has queued: that is read now.
            print("heard a refusal", flush=True)
            s.setblocking(False)
        except BlockingIOError:
            break


def set_header(s, v6, ttl, tos):
    """TTL and TOS of what is sent, and that those of what is received be told."""
    s.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    s.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
    for option in (12, 13):
        s.setsockopt(socket.IPPROTO_IP, option, 1)
    if v6:
        for option, value in ((16, ttl), (67, tos), (51, 1), (66, 1)):
            s.setsockopt(socket.IPPROTO_IPV6, option, value)


def header_of(s):
    _, control, _, peer = s.recvmsg(100, 256)
    values = {(level, kind): data[0] for level, kind, data in control}
    ttl = values.get((0, 2), values.get((41, 52)))
    tos = values.get((0, 1), values.get((41, 67)))
    return f"ttl {ttl} tos {tos}", peer


def header_server(port):
    s = server(port)
    set_header(s, True, 77, 0x28)
    while True:
        header, peer = header_of(s)
        print("seen", header, flush=True)
        s.sendto(b"answer", peer)


def header(address, port):
    s = client(address, port)
    set_header(s, ":" in address, 13, 0xB9)
    s.send(b"question")
    print("answered", header_of(s)[0], flush=True)


command, *words = sys.argv[1:]
programs = {
    "echo": echo,
    "exchange": exchange,
    "streams-server": streams_server,
    "streams": streams,
    "sources": sources,
    "ask": ask,
    "insist": insist,
    "beside": beside,
    "sink": sink,
    "burst": burst,
    "last-words": last_words,
    "listen": listen,
    "header-server": header_server,
    "header": header,
}
programs[command](*(int(word) if word.isdigit() else word for word in words))
