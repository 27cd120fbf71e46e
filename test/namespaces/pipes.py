"""Holds as many pages of pipes as a user may have (pipe-user-pages-soft, see pipe(7))."""

import fcntl
import os
import resource
import signal

F_SETPIPE_SZ = 1031
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

while True:
    _, end = os.pipe()
    try:
        fcntl.fcntl(end, F_SETPIPE_SZ, 1 << 20)
    except PermissionError:
        break
print("held", flush=True)
signal.pause()
