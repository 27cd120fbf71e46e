"""Clients of the benchmarks of one client's many connections, and of its neighbours.

neighbour.py churn ADDRESS PORT SOURCE FILE   one connection after the other, each asked once and
                                              closed; writes how many there were, over and over
neighbour.py probe ADDRESS PORT SOURCE SECONDS   the same at a slow pace; prints the time of each
                                                 from connect to answer, in ms, and of failures
neighbour.py count ADDRESS PORT SOURCE SECONDS   as churn; prints how many there were in each second
"""

import socket
import sys
import time

REQUEST = b"GET / HTTP/1.1\r\nHost: benchmark\r\n\r\n"


def ask(address, port, source):
    s = socket.socket()
    s.settimeout(5)
    s.bind((source, 0))
    s.connect((address, port))
    s.sendall(REQUEST)
    answer = s.recv(4096)
    s.close()
    return answer != b""


def is_answered(*target):
    try:
        return ask(*target)
    except OSError:
        return False


what, address, port, source, last = sys.argv[1:]
target = (address, int(port), source)
if what == "churn":
    count = 0
    while True:
        count += is_answered(*target)
        if count % 100 == 0:
            with open(last, "w") as file:
                file.write(str(count))
elif what == "count":
    counts = [0] * int(last)
    begin = time.monotonic()
    while (second := int(time.monotonic() - begin)) < len(counts):
        counts[second] += is_answered(*target)
    print(*counts)
else:
    end = time.monotonic() + float(last)
    while time.monotonic() < end:
        begin = time.monotonic()
        good = is_answered(*target)
        print((time.monotonic() - begin) * 1000 if good else "failed")
        time.sleep(0.005)
