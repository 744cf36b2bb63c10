"""`python -m vastsim`: starts the simulator and says in one JSON line where it listens."""

import argparse
import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from vastsim.machines import Machines
from vastsim.market import ACCOUNT, Market, Timing
from vastsim.offers import DEFAULT_FILE, Facts, MarketFileError, read_market
from vastsim.record import Recorded
from vastsim.server import State, simulator

KEY_VARIABLE = "VASTSIM_API_KEY"


def main() -> None:
    """Runs the simulator until it is told to stop."""
    parser = argparse.ArgumentParser(
        prog="vastsim",
        description="A Vast.ai simulator whose rented machines really run commands over SSH. "
        f"The account's key is taken from {KEY_VARIABLE}.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="port; 0 = any free one")
    parser.add_argument("--market", type=Path, default=DEFAULT_FILE, help="CSV file of offers")
    parser.add_argument("--seed", type=int, default=0, help="of all that is left to chance")
    parser.add_argument("--speed", type=float, default=1.0, help="simulated seconds per second")
    parser.add_argument("--public-host", help="where clients reach the machines; default: --host")
    parser.add_argument("--public-url", help="where clients reach this server")
    parser.add_argument("--ssh-ports", metavar="LOW-HIGH", help="ports of the machines")
    parser.add_argument(
        "--boot-seconds", type=float, nargs=2, default=(20.0, 60.0), metavar=("LOW", "HIGH")
    )
    parser.add_argument("--list-lag-seconds", type=float, default=0.0)
    parser.add_argument("--search-cap", type=int, default=64, help="offers in one answer, at most")
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="write down every request, keys included"
    )
    options = parser.parse_args()
    # Taken out of the environment: no machine may inherit it.
    key = os.environ.pop(KEY_VARIABLE, "")
    if not key:
        parser.error(f"{KEY_VARIABLE} must hold the account's key")
    try:
        facts = read_market(options.market)
        ports = _ports(options.ssh_ports)
    except (MarketFileError, ValueError) as error:
        parser.error(str(error))
    logging.basicConfig(stream=sys.stderr, level="WARNING")
    asyncio.run(_serve(options, key, facts, ports))


def _ports(text: str | None) -> range | None:
    if text is None:
        return None
    low, _, high = text.partition("-")
    if not (low.isdecimal() and high.isdecimal() and 0 < int(low) <= int(high) < 65536):
        raise ValueError(f"--ssh-ports: {text!r} is not LOW-HIGH")
    return range(int(low), int(high) + 1)


class _Server(uvicorn.Server):
    """A server that ends well when it is told to, however early."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        """Asks it to end."""
        self.should_exit = True


async def _serve(
    options: argparse.Namespace, key: str, facts: tuple[Facts, ...], ports: range | None
) -> None:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((options.host, options.port))
    listener.listen(512)
    port = listener.getsockname()[1]
    public_host = options.public_host or options.host
    public_url = (options.public_url or f"http://{public_host}:{port}").rstrip("/")
    timing = Timing(boot=tuple(options.boot_seconds), list_lag=options.list_lag_seconds)
    state = State(
        market=Market(facts, options.seed, timing),
        machines=Machines(options.host, ports),
        keys={key: ACCOUNT},
        public_host=public_host,
        public_url=public_url,
        speed=options.speed,
        search_cap=options.search_cap,
    )
    app = simulator(state)
    config = uvicorn.Config(
        app if options.record is None else Recorded(app, options.record),
        log_config=None,
        access_log=False,
        http="h11",
        timeout_graceful_shutdown=2,
    )
    server = _Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, server.stop)
    print(json.dumps({"url": public_url, "port": port, "ssh_host": public_host}), flush=True)
    await server.serve(sockets=[listener])


if __name__ == "__main__":
    main()
