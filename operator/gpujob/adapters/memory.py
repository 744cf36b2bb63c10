"""Keeps the memory of this process, which holds secrets, from others."""

import ctypes
import resource
import sys

_PR_SET_DUMPABLE = 4


def keep_private() -> None:
    """Prevents core dumps, and keeps processes of the same user from reading this one's memory.

    Both are needed: where the kernel pipes dumps to a program, as on most nodes, it ignores the
    limit. `/proc/…/status` stays readable for everybody.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
