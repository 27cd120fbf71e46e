"""Good and bad clients for a soak. Each runs until there is a file `enough`, at a bounded rate.

hostile.py good NAME ASKED SOURCE      asks over TCP and UDP in turn; counts and times in good-NAME
hostile.py hold ASKED SOURCE COUNT     holds as many connections as it gets, a byte a second on some
hostile.py churn ASKED SOURCE RATE     connects and resets
hostile.py stall ASKED SOURCE COUNT    sends to an echo and never reads, for 2 seconds each time
hostile.py flood ASKED RATE            UDP from sources that nobody has
hostile.py errors MAC RATE             ICMP errors about the proxy's connections and sessions
hostile.py thief PORT...               as another user, until SIGTERM: tries to bind these
hostile.py reader LOG SUMMARY RATE     reads so many bytes a second of the log; the newest counters,
                                       what was lost, and how many warnings there were in SUMMARY
"""

import itertools
import json
import os
import select
import signal
import socket
import struct
import sys
import time


def going():
    return not os.path.exists("enough")


def opened(kind, asked, source):
    s = socket.socket(socket.AF_INET6 if ":" in asked else socket.AF_INET, kind)
    s.bind((source, 0))
    return s


def say(*words):
    """One line in one write: others say theirs at the same time."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def replace(path, text):
    with open(path + ".new", "w") as file:
        file.write(text)
    os.rename(path + ".new", path)


def good(name, asked, source):
    """A new connection, a new session and a kept session in each turn."""
    count, failed, times, again = 0, [], [], 0
    kept = opened(socket.SOCK_DGRAM, asked, source)
    kept.connect((asked, 53))

    def stream():
        with opened(socket.SOCK_STREAM, asked, source) as s:
            s.settimeout(30)
            s.connect((asked, 80))
            s.sendall(b"x")
            return s.recv(100) == b"x"

    def datagram(s):
        nonlocal again
        s.settimeout(2)
        for attempt in range(15):
            again += attempt > 0
            s.send(b"%d" % count)
            try:
                while s.recv(100) != b"%d" % count:
                    pass
                return True
            except TimeoutError:
                pass
        return False

    def session():
        with opened(socket.SOCK_DGRAM, asked, source) as s:
            s.connect((asked, 53))
            return datagram(s)

    kinds = {"connection": stream, "session": session, "kept": lambda: datagram(kept)}
    for what, probe in itertools.cycle(kinds.items()):
        if not going():
            break
        count += 1
        begun = time.monotonic()
        try:
            if not probe():
                failed.append(f"{what}: no answer")
        except OSError as error:
            failed.append(f"{what}: {error}")
        times.append(1000 * (time.monotonic() - begun))
        times = times[-20_000:]
        if count % 30 == 0:
            ordered = sorted(times)
            p50, p99 = ordered[len(times) // 2], ordered[len(times) * 99 // 100]
            figures = f"p50 {p50:.1f} p99 {p99:.1f} max {ordered[-1]:.1f} ms"
            replace(f"good-{name}", f"{count} {len(failed)} {figures}\n")
        time.sleep(0.01)
    say("probes", name, count, "failed", len(failed), "sent again", again, *failed[:3])


def hold(asked, source, count):
    held, poll, begun = {}, select.poll(), 0

    def begin():
        s = opened(socket.SOCK_STREAM, asked, source)
        s.setblocking(False)
        s.connect_ex((asked, 80))
        held[s.fileno()] = s
        poll.register(s, select.POLLIN)

    while going():
        # What has ended comes back, but not without a bound.
        for _ in range(min(20, int(count) - len(held))):
            begin()
            begun += 1
        for fd, _ in poll.poll(50):
            s = held[fd]
            try:
                if s.recv(100):
                    continue
            except BlockingIOError:
                continue
            except OSError:
                pass
            poll.unregister(fd)
            held.pop(fd).close()
        for s in list(held.values())[::20] if begun % 20 == 0 else ():
            try:
                s.send(b"x")
            except OSError:
                pass
        time.sleep(0.05)
    say("held", len(held), "begun", begun)


def churn(asked, source, rate):
    count = 0
    while going():
        s = opened(socket.SOCK_STREAM, asked, source)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.settimeout(1)
        try:
            # Every other one is reset before it is there.
            s.setblocking(count % 2 == 0)
            s.connect_ex((asked, 80))
            s.send(b"x" * 1000)
        except OSError:
            pass
        s.close()
        count += 1
        time.sleep(1 / int(rate))
    say("reset", count)


def stall(asked, source, count):
    rounds = 0
    while going():
        streams = []
        for _ in range(int(count)):
            s = opened(socket.SOCK_STREAM, asked, source)
            s.settimeout(2)
            try:
                s.connect((asked, 80))
                s.setblocking(False)
                while s.send(bytes(65536)) > 0:
                    pass
            except OSError:
                pass
            streams.append(s)
        time.sleep(2)
        for s in streams:
            s.close()
        rounds += 1
    say("stalled", rounds, "times")


def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def flood(asked, rate):
    family = socket.AF_INET6 if ":" in asked else socket.AF_INET
    to = socket.inet_pton(family, asked)
    network = socket.inet_pton(family, "fd00:1::" if ":" in asked else "10.9.1.0")[:-1]
    s = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
    i = 0
    while going():
        for _ in range(max(1, int(rate) // 100)):
            i += 1
            ends = network + bytes([100 + i % 100]) + to
            udp = struct.pack(">HHH", 1024 + i // 100 % 60000, 53, 10)
            if ":" in asked:
                header = struct.pack(">IHBB", 6 << 28, 10, 17, 64)
                check = checksum(ends + struct.pack(">II", 10, 17) + udp + b"\0\0xx")
            else:
                header, check = struct.pack(">BBHHHBBH", 0x45, 0, 30, i & 0xFFFF, 0, 64, 17, 0), 0
            try:
                s.sendto(header + ends + udp + struct.pack(">H", check) + b"xx", (asked, 0))
            except OSError:
                pass
        time.sleep(0.01)
    say("flooded", i)


def errors(mac, rate):
    """Port unreachable, about what the proxy may have sent to the upstream or to the client."""

    def ip(protocol, source, destination, payload):
        ends = socket.inet_aton(source) + socket.inet_aton(destination)
        header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0) + ends
        return header[:10] + struct.pack(">H", checksum(header)) + header[12:] + payload

    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    link.bind(("c0", 0))
    frame = bytes.fromhex(mac.replace(":", "")) + link.getsockname()[4] + b"\x08\x00"
    me, count = "10.9.1.2", 0
    for port in itertools.cycle(range(1024, 65536)):
        if not going():
            break
        s = opened(socket.SOCK_DGRAM, "8.8.8.8", me)
        s.sendto(b"f", ("8.8.8.8", 53))
        for protocol, about in ((17, s.getsockname()[1]), (17, port), (6, port)):
            inner = struct.pack(">HHI", about, 8080, 0x90000)
            icmp = struct.pack(">BBHI", 3, 3, 0, 0) + ip(protocol, me, "10.9.2.2", inner)
            icmp = icmp[:2] + struct.pack(">H", checksum(icmp)) + icmp[4:]
            link.send(frame + ip(1, "10.9.1.77", me, icmp))
            count += 1
        s.close()
        time.sleep(3 / int(rate))
    say("forged", count)


def thief(*ports):
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
    ways = itertools.cycle(itertools.product(ports, kinds, ("0.0.0.0", "::"), range(4)))
    tries, got, ended = 0, 0, []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    for port, kind, address, way in ways:
        if ended:
            break
        s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, way & 1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, way >> 1)
        try:
            s.bind((address, int(port)))
            if kind == socket.SOCK_STREAM:
                s.listen()
            got += 1
        except OSError:
            pass
        s.close()
        tries += 1
        time.sleep(0.001)
    say("stolen", got, "in", "many" if tries > 100 else tries, "tries")


def reader(log, summary, rate):
    newest, lost, warnings, rest = {}, 0, 0, b""
    fd = os.open(log, os.O_RDONLY)
    while data := os.read(fd, int(rate) // 20):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            event = json.loads(line)
            if event["event"] == "counters" and "worker" not in event:
                newest = event
            lost += event["lines"] if event["event"] == "lost" else 0
            warnings += event["event"] == "warning"
            if event["event"] in ("bound", "warning", "lost", "counters", "died", "rules"):
                with open("proxy.log", "ab") as file:
                    file.write(line + b"\n")
        replace(summary, json.dumps({**newest, "lost": lost, "warnings": warnings}))
        time.sleep(0.05)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
