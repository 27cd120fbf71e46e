"""Runs a program on a terminal of its own.

on-terminal.py STEPS COMMAND...   STEPS is JSON, carried out one after the other:
  ["wait", TEXT]          until the program has written TEXT since the step before
  ["send", KEYS]
  ["resize", COLUMNS, ROWS]
  ["signal", NUMBER]
Prints JSON: the status (negative: a signal), whether the terminal has the modes that it had before,
and all that the program has written.
"""

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time

steps = json.loads(sys.argv[1])
main, terminal = pty.openpty()


def resize(columns, rows):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def session():
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


resize(100, 24)
before = termios.tcgetattr(terminal)
child = subprocess.Popen(
    sys.argv[2:], stdin=terminal, stdout=terminal, stderr=terminal, preexec_fn=session
)
output = b""
mark = 0
end = time.monotonic() + 25


def read():
    global output
    if select.select([main], [], [], 0.05)[0]:
        output += os.read(main, 65536)


problem = ""
for kind, *values in steps:
    if kind == "send":
        mark = len(output)
        os.write(main, values[0].encode())
    elif kind == "resize":
        mark = len(output)
        resize(*values)
    elif kind == "signal":
        os.kill(child.pid, values[0])
    elif kind == "wait":
        while values[0].encode() not in output[mark:]:
            if time.monotonic() > end or child.poll() is not None:
                problem = f"never: {values[0]}"
                break
            read()
    if problem:
        break
while child.poll() is None and time.monotonic() < end:
    read()
if child.poll() is None:
    child.kill()
    problem = problem or "it has not ended"
child.wait()
while select.select([main], [], [], 0)[0]:
    output += os.read(main, 65536)
print(
    json.dumps(
        {
            "status": child.returncode,
            "isRestored": termios.tcgetattr(terminal) == before,
            "output": output.decode(errors="replace"),
            "problem": problem,
        }
    )
)
