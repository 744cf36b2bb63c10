"""Keeps the memory of this process, which holds secrets, from everybody else."""

import ctypes
import resource
import sys

_PR_SET_DUMPABLE = 4


def keep_private() -> None:
    """Forbids core dumps, and other processes of the same user to read this one's memory.

    Both calls are needed: where dumps go to a program, as on most nodes, the kernel ignores the
    limit. What everybody may read of a process, such as `/proc/…/status`, stays readable.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
