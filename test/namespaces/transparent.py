"""A transparent listener and its client, independent of the program under test.

transparent.py listen PORT READY [NAME]   answers on [::]:PORT, tcp and udp, both families, from the
                                   original destination; creates the file READY once it listens;
                                   NAME stands before its answers
transparent.py ask SECONDS tcp|udp ADDRESS PORT ...   asks all at once and prints each answer, or
                                   "no answer" after that time
transparent.py ask-lo SECONDS ...  the same from 127.0.0.1, bound to the interface lo, which is what
                                   curl 7.29 --interface lo did
"""

import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

IP_TRANSPARENT, IPV6_TRANSPARENT = 19, 75
IP_RECVORIGDSTADDR, IPV6_RECVORIGDSTADDR = 20, 74
NAME = sys.argv[4] if sys.argv[1] == "listen" and len(sys.argv) > 4 else ""


def transparent(kind, port, address="::"):
    s = socket.socket(socket.AF_INET6, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    s.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
    s.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    if kind == socket.SOCK_DGRAM:
        s.setsockopt(socket.SOL_IP, IP_RECVORIGDSTADDR, 1)
        s.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, 1)
    s.bind((address, port))
    return s


def name(address, port):
    address = address.removeprefix("::ffff:")
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def serve_tcp(listener):
    while True:
        connection, _ = listener.accept()
        connection.sendall(f"{NAME}tcp for {name(*connection.getsockname()[:2])}".encode())
        connection.close()


def serve_udp(listener):
    while True:
        _, control, _, client = listener.recvmsg(2048, 256)
        for level, _, data in control:
            port = int.from_bytes(data[2:4], "big")
            if level == socket.SOL_IP:
                address = "::ffff:" + socket.inet_ntop(socket.AF_INET, data[4:8])
            else:
                address = socket.inet_ntop(socket.AF_INET6, data[8:24])
            reply = transparent(socket.SOCK_DGRAM, port, address)
            reply.sendto(f"{NAME}udp for {name(address, port)}".encode(), client)
            reply.close()


def listen(port, ready):
    tcp = transparent(socket.SOCK_STREAM, port)
    tcp.listen()
    udp = transparent(socket.SOCK_DGRAM, port)
    threading.Thread(target=serve_tcp, args=(tcp,)).start()
    open(ready, "w").close()
    serve_udp(udp)


def ask(through_lo, timeout, protocol, address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    s = socket.socket(family, kind)
    s.settimeout(timeout)
    if through_lo:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        s.bind(("127.0.0.1", 0))
    try:
        s.connect((address, port))
        if protocol == "udp":
            s.send(b"hello")
        return s.recv(2048).decode()
    except OSError:
        return "no answer"


if sys.argv[1] == "listen":
    listen(int(sys.argv[2]), sys.argv[3])
else:
    command, seconds, *words = sys.argv[1:]
    lo = command == "ask-lo"
    with ThreadPoolExecutor(len(words)) as pool:
        questions = zip(words[0::3], words[1::3], words[2::3])
        answers = [pool.submit(ask, lo, float(seconds), p, a, int(n)) for p, a, n in questions]
        for answer in answers:
            print(answer.result())
