"""Clients and relays for the tests of local capture and of the reply path.

traffic.py marked MARK tcp|udp ADDRESS PORT ...   asks as transparent.py does, with SO_MARK (0: none)
traffic.py relay PORT MARK READY LOG [ADDRESS]    a transparent listener that connects to the original
                              destination with SO_MARK and hands on "relayed: " and the answer; a
                              line in LOG for each connection
traffic.py hello PORT READY   an ordinary server on 127.0.0.1 that says who asks
traffic.py again SECONDS ADDRESS PORT SOURCE-PORT...   asks by tcp from each port in turn
traffic.py spoof-relay PORT READY TO [udp]        the same, but connects to TO with the client's address
"""

import socket
import struct
import sys
import threading

SOL_IP, IP_TRANSPARENT, IP_RECVORIGDSTADDR, SO_ORIGINAL_DST = socket.SOL_IP, 19, 20, 80
IPV6_TRANSPARENT, IPV6_RECVORIGDSTADDR = 75, 74


def client(protocol, address, mark):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
    s.settimeout(10)
    if mark:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    return s


def ask(s, protocol, address, port):
    try:
        s.connect((address, port))
        if protocol == "udp":
            s.send(b"hello")
        return s.recv(2048).decode()
    except OSError:
        return "no answer"


def destination(connection):
    """By TPROXY the socket's own name; after NAT what conntrack remembers."""
    address, port = connection.getsockname()[:2]
    try:
        data = connection.getsockopt(SOL_IP, SO_ORIGINAL_DST, 16)
        port, packed = struct.unpack("!2xH4s8x", data)
        address = socket.inet_ntoa(packed)
    except OSError:
        pass
    return address, port


def transparent(kind, address):
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    s = socket.socket(family, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        s.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    else:
        s.setsockopt(SOL_IP, IP_TRANSPARENT, 1)
    s.bind(address)
    return s


def listener(kind, port, address="0.0.0.0"):
    return transparent(kind, (address, port))


def relay(port, mark, ready, log, address="0.0.0.0"):
    tcp = listener(socket.SOCK_STREAM, port, address)
    tcp.listen()
    open(ready, "w").close()
    while True:
        connection, _ = tcp.accept()
        with open(log, "a") as lines:
            print(destination(connection), file=lines)
        upstream = client("tcp", "0.0.0.0", mark)
        answer = ask(upstream, "tcp", *destination(connection))
        connection.sendall(f"relayed: {answer}".encode())
        connection.close()


def spoofed(kind, address, timeout):
    s = transparent(kind, address)
    s.settimeout(timeout)
    return s


def every(to):
    return "::" if ":" in to else "0.0.0.0"


def spoof_tcp(port, ready, to):
    tcp = listener(socket.SOCK_STREAM, port, every(to))
    tcp.listen()
    open(ready, "w").close()
    while True:
        connection, peer = tcp.accept()
        upstream = spoofed(socket.SOCK_STREAM, (peer[0], 0), 1)
        answer = ask(upstream, "tcp", to, 80)
        connection.sendall(f"relayed: {answer}".encode())
        connection.close()


def spoof_udp(port, ready, to):
    """Each datagram is answered from its destination by an unconnected socket, which stays open."""
    udp = listener(socket.SOCK_DGRAM, port, every(to))
    if ":" in to:
        udp.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, 1)
    else:
        udp.setsockopt(SOL_IP, IP_RECVORIGDSTADDR, 1)
    open(ready, "w").close()
    replies = {}
    while True:
        _, control, _, peer = udp.recvmsg(2048, 256)
        data = control[0][2]
        (number,) = struct.unpack_from("!H", data, 2)
        if ":" in to:
            original = (socket.inet_ntop(socket.AF_INET6, data[8:24]), number)
        else:
            original = (socket.inet_ntoa(data[4:8]), number)
        upstream = spoofed(socket.SOCK_DGRAM, (peer[0], 0), 1)
        answer = ask(upstream, "udp", to, 80)
        upstream.close()
        if original not in replies:
            replies[original] = spoofed(socket.SOCK_DGRAM, original, 1)
        replies[original].sendto(f"relayed: {answer}".encode(), peer)


command, *words = sys.argv[1:]
if command == "relay":
    relay(int(words[0]), int(words[1]), *words[2:])
elif command == "spoof-relay":
    serve = spoof_udp if words[3:] == ["udp"] else spoof_tcp
    threading.Thread(target=serve, args=(int(words[0]), *words[1:3])).start()
elif command == "hello":
    server = socket.create_server(("127.0.0.1", int(words[0])))
    open(words[1], "w").close()
    while True:
        connection, peer = server.accept()
        connection.sendall(f"hello {peer[0]}".encode())
        connection.close()
elif command == "again":
    seconds, address, port, *sources = words
    for number in sources:
        s = client("tcp", address, 0)
        s.settimeout(float(seconds))
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("0.0.0.0", int(number)))
        print(ask(s, "tcp", address, int(port)))
        # The proxy has closed first: it keeps the connection in TIME_WAIT.
        s.recv(1)
        s.close()
else:
    mark, *words = words
    for protocol, address, port in zip(words[0::3], words[1::3], words[2::3]):
        print(ask(client(protocol, address, int(mark)), protocol, address, int(port)))
