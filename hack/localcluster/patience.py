"""Says what lasts, so that nobody takes it for something that hangs."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

TELL_SECONDS = 5.0
"""With a short step before it that says nothing, it is still said within ten seconds."""


def _print(text: str) -> None:
    print(text, flush=True)


@contextlib.contextmanager
def told(what: str, say: Callable[[str], object] = _print) -> Iterator[None]:
    """Says every few seconds that something still lasts, and for how long it has."""
    started = time.monotonic()
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(TELL_SECONDS):
            say(f"{what}: {time.monotonic() - started:.0f} s so far")

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def wait_for(what: str, seconds: float, ready: Callable[[], bool], *, quiet: bool = False) -> None:
    """Waits until `ready` returns True; raises TimeoutError, which names what was awaited."""
    started = time.monotonic()
    with contextlib.nullcontext() if quiet else told(f"cluster: waiting for {what}"):
        while not ready():
            if time.monotonic() - started > seconds:
                raise TimeoutError(f"{what} took longer than {seconds:.0f} s")
            time.sleep(0.05)
    if not quiet:
        _print(f"cluster: {what}, after {time.monotonic() - started:.1f} s")
