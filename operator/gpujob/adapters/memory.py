"""The memory of this process, which holds secrets, stays in it."""

import ctypes
import resource
import sys

_PR_SET_DUMPABLE = 4


def keep_private() -> None:
    """Has no core dumped, and lets no process of the same user read this one's memory.

    The kernel pays no heed to the limit where it hands dumps to a program, as it does on most
    nodes: hence both. What everybody may read of a process (`/proc/…/status`) stays so.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
