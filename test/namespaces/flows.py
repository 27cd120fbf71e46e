"""Servers that tell who they are and whom they see, and clients that print what they are told.

flows.py serve PORT ADDRESS...      one server for TCP and UDP at each address
flows.py ask COUNT PORT ADDRESS...  COUNT questions by TCP, and COUNT by UDP with a socket each
flows.py ask-as PORT ADDRESS SOURCE... one question by TCP from each: who answers it
flows.py hold PORT ADDRESS          one connection; echoes each line of standard input through it
"""

import os
import socket
import sys
import threading

PATIENCE = float(os.environ.get("PATIENCE", "30"))


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def carry(connection, address, peer):
    with connection:
        connection.sendall(f"{address} sees {peer}\n".encode())
        while data := connection.recv(4096):
            connection.sendall(data)


def serve_tcp(server, address):
    while True:
        connection, peer = server.accept()
        threading.Thread(target=carry, args=(connection, address, peer[0]), daemon=True).start()


def serve_udp(server, address):
    while True:
        _, peer = server.recvfrom(4096)
        server.sendto(f"{address} sees {peer[0]}\n".encode(), peer)


def serve(port, addresses):
    threads = []
    for address in addresses:
        tcp = socket.create_server((address, port), family=family(address))
        udp = socket.socket(family(address), socket.SOCK_DGRAM)
        udp.bind((address, port))
        threads.append(threading.Thread(target=serve_tcp, args=(tcp, address)))
        threads.append(threading.Thread(target=serve_udp, args=(udp, address)))
    for thread in threads:
        thread.start()
    print("serving", flush=True)


def ask(kind, address, port, source=None):
    try:
        with socket.socket(family(address), kind) as client:
            # A SYN or a segment may be sent again and again before it arrives.
            client.settimeout(PATIENCE if kind == socket.SOCK_STREAM else 5)
            if source is not None:
                client.bind((source, 0))
            client.connect((address, port))
            if kind == socket.SOCK_DGRAM:
                client.send(b"?")
            return client.recv(4096).decode().strip()
    except OSError as error:
        return type(error).__name__


def main(verb, *rest):
    if verb == "serve":
        serve(int(rest[0]), rest[1:])
    elif verb == "ask":
        count, port = int(rest[0]), int(rest[1])
        for address in rest[2:]:
            for name, kind in (("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)):
                told = {ask(kind, address, port) for _ in range(count)}
                print(name, address, *sorted(told), sep="; ", flush=True)
    elif verb == "ask-as":
        for source in rest[2:]:
            print(ask(socket.SOCK_STREAM, rest[1], int(rest[0]), source).split()[0], flush=True)
    else:
        with socket.create_connection((rest[1], int(rest[0])), timeout=30) as held:
            print(held.recv(4096).decode().strip(), flush=True)
            for line in iter(sys.stdin.readline, ""):
                if line == "end\n":
                    break
                held.sendall(line.encode())
                print(held.recv(4096).decode().strip(), flush=True)


main(*sys.argv[1:])
