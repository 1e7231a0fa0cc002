"""measure.py TIMES COMMAND…   run a command so many times; JSON: [[seconds, cpu seconds, peak RSS in bytes, status], …]

Run by the Python of whichever root the command lives in, so that entering that root is not measured. CPU and memory
are those of the command and of all that it waited for; a memory peak is the largest process's.
"""

import json
import os
import sys
import time


def run(argv: list[str]) -> tuple[float, float, int, int]:
    begun = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1):
                os.dup2(null, stream)
            os.execvp(argv[0], argv)
        finally:
            os._exit(127)
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - begun
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    print(json.dumps([run(sys.argv[2:]) for _ in range(int(sys.argv[1]))]))
