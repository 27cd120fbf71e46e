"""blocked.py pipe|terminal COMMAND...: runs a command whose standard output nobody reads.

Prints what came first, up to the first newline, and reads no more until its own standard input has a
line: then it reads on to the end, and prints no more than 200 bytes of a line. A terminal is stopped as by Ctrl-S meanwhile. SIGTERM is passed on.
The exit status is the command's.
"""

import os, pty, signal, subprocess, sys, termios, tty

kind, command = sys.argv[1], sys.argv[2:]
if kind == "terminal":
    out, inner = pty.openpty()
    tty.setraw(inner)
else:
    out, inner = os.pipe()
child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=inner)
signal.signal(signal.SIGTERM, lambda *_: child.terminate())
first = b""
while b"\n" not in first:
    first += os.read(out, 1)
if kind == "terminal":
    termios.tcflow(inner, termios.TCOOFF)
sys.stdout.buffer.write(first)
sys.stdout.buffer.flush()
if sys.stdin.readline():
    if kind == "terminal":
        termios.tcflow(inner, termios.TCOON)
    os.close(inner)
    rest = b""
    while True:
        try:
            part = os.read(out, 65536)
        except OSError:
            break
        if not part:
            break
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            sys.stdout.buffer.write(line[:200] + b"\n")
        sys.stdout.buffer.flush()
sys.exit(child.wait())
