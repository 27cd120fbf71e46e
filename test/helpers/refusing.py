"""refusing.py ERRNO CALL,CALL... COMMAND...   runs COMMAND; the kernel refuses it the calls (seccomp)

A CALL is a system call's name. With :INDEX=VALUE... it is refused where these arguments, which count
from 0, have these values: setsockopt:1=6:2=12.
"""

import ctypes
import os
import platform
import struct
import sys

NUMBERS = {
    "x86_64": (0xC000003E, {
        "splice": 275, "sendmmsg": 307, "recvmmsg": 299, "accept4": 288, "pipe2": 293,
        "setsockopt": 54, "fcntl": 72,
    }),
    "aarch64": (0xC00000B7, {
        "splice": 76, "sendmmsg": 269, "recvmmsg": 243, "accept4": 242, "pipe2": 59,
        "setsockopt": 208, "fcntl": 25,
    }),
}
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2


def rule(numbers, call, errno):
    """Loads what is compared, one field after the other; any difference skips the refusal."""
    name, *arguments = call.split(":")
    # struct seccomp_data: int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6].
    pairs = [map(int, argument.split("=")) for argument in arguments]
    fields = [(0, numbers[name])] + [(16 + 8 * index, value) for index, value in pairs]
    code = []
    for at, (offset, value) in enumerate(fields):
        left = 2 * (len(fields) - at) - 1
        code += [(LOAD, 0, 0, offset), (EQUAL, 0, left, value)]
    return code + [(RETURN, 0, 0, ERRNO | errno)]


errno, calls, *command = sys.argv[1:]
architecture, numbers = NUMBERS[platform.machine()]
program = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, architecture), (RETURN, 0, 0, ALLOW)]
for call in calls.split(","):
    program += rule(numbers, call, int(errno))
program.append((RETURN, 0, 0, ALLOW))
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in program))
header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(header), 0, 0) != 0:
    sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
os.execvp(command[0], command)
