"""launch.py REPORT COMMAND…: runs the command, and writes to REPORT what it used.

A process of its own, and a small one: until it becomes the command, a child has its parent's size,
and the kernel counts that to its peak. What is imported here is what the peak cannot be below."""

import os
import sys
import time

report, *command = sys.argv[1:]
started = time.monotonic()
child = os.posix_spawnp(command[0], command, os.environ)
# Of the child, and of all descendants that were waited for.
_, status, used = os.wait4(child, 0)
wall = time.monotonic() - started
with open(report, "w") as file:
    file.write(f"{wall} {used.ru_utime} {used.ru_stime} {used.ru_maxrss * 1024}")
code = os.waitstatus_to_exitcode(status)
sys.exit(code if code >= 0 else 128 - code)
