"""Peers that misbehave, and one that does not.

faults.py server ADDRESS...   port 80 of each: the first echoes, then there is one that resets at
                              once, one that resets after a byte, one that never reads, one that
                              ends its side and then resets, and one that takes no connection
faults.py ask ADDRESS         sends a byte; prints `echo`, `reset`, `end` or both, or `silence`
faults.py bystander ADDRESS   sends and gets back until its input ends, and prints that all was well
faults.py leave ADDRESS TEXT COUNT   connects, sends TEXT, and at the end of its input resets
"""

import os
import select
import socket
import struct
import sys
import threading
import time

# Seconds that a slow machine may take for an answer.
PATIENCE = 30


def reset(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def echo(s):
    while data := s.recv(65536):
        s.sendall(data)
    s.close()


def reset_after_a_byte(s):
    s.recv(1)
    reset(s)


def never_read(s):
    time.sleep(1000)


def end_then_reset(s):
    s.recv(1)
    s.shutdown(socket.SHUT_WR)
    s.recv(1)
    reset(s)


def serve(addresses):
    behaviours = [echo, reset, reset_after_a_byte, never_read, end_then_reset]

    def run(behaviour, s):
        try:
            behaviour(s)
        except OSError:
            pass

    def accept(listener, behaviour):
        while True:
            s = listener.accept()[0]
            threading.Thread(target=run, args=(behaviour, s), daemon=True).start()

    listeners = [listen(address, 64) for address in addresses[: len(behaviours)]]
    for listener, behaviour in zip(listeners, behaviours):
        threading.Thread(target=accept, args=(listener, behaviour), daemon=True).start()
    if len(addresses) > len(behaviours):
        full = listen(addresses[-1], 0)
        waiting = [socket.socket(full.family, socket.SOCK_STREAM) for _ in range(3)]
        for s in waiting:
            s.setblocking(False)
            s.connect_ex((addresses[-1], 80))
    print("ready", flush=True)
    time.sleep(1000)


def listen(address, backlog):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 80), family=family, backlog=backlog)


def ask(address):
    try:
        s = socket.create_connection((address, 80), timeout=PATIENCE)
        s.sendall(b"x")
        data = s.recv(1)
        if data:
            return "echo"
        # An end is not yet all: a reset comes behind it, however long the peer takes.
        s.sendall(b"y")
        broken = select.poll()
        broken.register(s, 0)
        return "end, reset" if broken.poll(PATIENCE * 1000) else "end"
    except TimeoutError:
        return "silence"
    except (ConnectionResetError, BrokenPipeError):
        return "reset"


def bystander(address):
    s = socket.create_connection((address, 80), timeout=PATIENCE)
    turns = 0
    while not select.select([0], [], [], 0.01)[0]:
        data = os.urandom(1 + turns % 50_000)
        threading.Thread(target=s.sendall, args=(data,)).start()
        back = b""
        while len(back) < len(data):
            part = s.recv(65536)
            if not part:
                raise EOFError
            back += part
        assert back == data
        turns += 1
    s.shutdown(socket.SHUT_WR)
    assert s.recv(1) == b""
    print("bystander: all was well" if turns else "bystander: no turn")


def leave(address, text, count):
    sockets = [socket.create_connection((address, 80)) for _ in range(count)]
    for s in sockets:
        s.sendall(text.encode())
    print("ready", flush=True)
    sys.stdin.read()
    for s in sockets:
        reset(s)


if __name__ == "__main__":
    command, *args = sys.argv[1:]
    if command == "server":
        serve(args)
    elif command == "ask":
        print(ask(args[0]))
    elif command == "bystander":
        bystander(args[0])
    elif command == "leave":
        leave(args[0], args[1], int(args[2]))
