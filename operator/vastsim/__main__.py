"""`python -m vastsim`: starts the simulator and prints one JSON line that says where it listens."""

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

from vastsim.faults import Faults
from vastsim.living import LivingMarket
from vastsim.machines import Machines
from vastsim.market import ACCOUNT, Market, Timing
from vastsim.offers import DEFAULT_FILE, Facts, MarketFileError, read_market
from vastsim.record import Recorded
from vastsim.server import simulator
from vastsim.state import State
from vastsim.thresholds import DAILY_SEARCH_ROWS, Thresholds

KEY_VARIABLE = "VASTSIM_API_KEY"


def main() -> None:
    """Runs the simulator until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(
        prog="vastsim",
        description="Simulates Vast.ai: its HTTP API, and rented machines that really run commands "
        f"over SSH. The environment variable {KEY_VARIABLE} must hold the API key that clients "
        "present. When the simulator listens it prints one line of JSON with its URL, port, SSH "
        "host and seed. Controls for tests and demos are under /sim/ and need no key.",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on, for the API and for SSH (default: 127.0.0.1)",
    )
    parser.add_argument(
        "--port", type=int, default=8000, help="port of the API; 0 picks a free one (default: 8000)"
    )
    parser.add_argument(
        "--market",
        type=Path,
        default=DEFAULT_FILE,
        help="CSV file of the offers (default: the file that comes with the simulator)",
    )
    parser.add_argument(
        "--living",
        type=int,
        default=0,
        metavar="OFFERS",
        help="open with so many offers like those of the market file, on a market in which "
        "strangers rent, release, and change prices and bids (default: the file, and no strangers)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of everything that is random (default: 0)"
    )
    parser.add_argument(
        "--speed", type=float, default=1.0, help="simulated seconds in one real second (default: 1)"
    )
    parser.add_argument(
        "--public-host",
        help="host name or address at which clients reach the machines (default: --host)",
    )
    parser.add_argument(
        "--public-url", help="URL at which clients reach the API (default: made from host and port)"
    )
    parser.add_argument(
        "--ssh-ports",
        metavar="LOW-HIGH",
        help="range of ports for the machines (default: any free ones)",
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("/"),
        metavar="FOLDER",
        help="Debian file system that the images of machines are laid over, with OpenSSH's server "
        "(default: /, as in the simulator's own image)",
    )
    parser.add_argument(
        "--share",
        type=Path,
        metavar="FOLDER",
        help="folder that every machine sees under the same path (default: none)",
    )
    parser.add_argument(
        "--boot-seconds",
        type=float,
        nargs=2,
        default=(20.0, 60.0),
        metavar=("LOW", "HIGH"),
        help="shortest and longest time from a rent until the machine runs (default: 20 60)",
    )
    parser.add_argument(
        "--list-lag-seconds",
        type=float,
        default=0.0,
        help="how long a new machine is missing from listings, and a destroyed one is still listed "
        "(default: 0)",
    )
    parser.add_argument(
        "--record-lag-seconds",
        type=float,
        default=600.0,
        help="how long what was used is in no record of charges (default: 600)",
    )
    parser.add_argument(
        "--search-cap", type=int, default=64, help="most offers in one answer (default: 64)"
    )
    parser.add_argument(
        "--threshold-scale",
        type=float,
        default=1.0,
        metavar="FACTOR",
        help="multiplies the least times between requests, after which the provider refuses with "
        "429; 0: no thresholds (default: 1)",
    )
    parser.add_argument(
        "--daily-search-rows",
        type=int,
        default=DAILY_SEARCH_ROWS,
        metavar="ROWS",
        help="offers that all searches from one address may be answered with in a UTC day; 0: any "
        f"number (default: {DAILY_SEARCH_ROWS})",
    )
    parser.add_argument(
        "--retry-after-share",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the refusals that say when to come again, from 0 to 1 (default: 0)",
    )
    parser.add_argument(
        "--record",
        type=Path,
        metavar="FILE",
        help="append every request to this file, keys included",
    )
    options = parser.parse_args()
    # Removed from the environment, so that no machine inherits it.
    key = os.environ.pop(KEY_VARIABLE, "")
    if not key:
        parser.error(f"the environment variable {KEY_VARIABLE} must hold the account's API key")
    try:
        facts = read_market(options.market)
        ports = _ports(options.ssh_ports)
        if options.living < 0:
            raise ValueError(f"--living must be 0 or more, not {options.living}")
        thresholds = Thresholds(
            options.seed,
            scale=options.threshold_scale,
            daily_search_rows=options.daily_search_rows,
            retry_after_share=options.retry_after_share,
        )
    except (MarketFileError, ValueError) as error:
        parser.error(str(error))
    logging.basicConfig(stream=sys.stderr, level="WARNING")
    asyncio.run(_serve(options, key, facts, ports, thresholds))


def _ports(text: str | None) -> range | None:
    if text is None:
        return None
    low, _, high = text.partition("-")
    if not (low.isdecimal() and high.isdecimal() and 0 < int(low) <= int(high) < 65536):
        raise ValueError(f"--ssh-ports must be a range such as 20000-20099, not {text!r}")
    return range(int(low), int(high) + 1)


class _Server(uvicorn.Server):
    """A server that ends cleanly on a signal, even before it has started to serve."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        """Asks the server to end."""
        self.should_exit = True


async def _serve(
    options: argparse.Namespace,
    key: str,
    facts: tuple[Facts, ...],
    ports: range | None,
    thresholds: Thresholds,
) -> None:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((options.host, options.port))
    listener.listen(512)
    port = listener.getsockname()[1]
    public_host = options.public_host or options.host
    public_url = (options.public_url or f"http://{public_host}:{port}").rstrip("/")
    timing = Timing(
        boot=tuple(options.boot_seconds),
        list_lag=options.list_lag_seconds,
        record_lag=options.record_lag_seconds,
    )
    market = (
        LivingMarket(facts, options.living, options.seed, timing)
        if options.living
        else Market(facts, options.seed, timing)
    )
    state = State(
        faults=Faults(options.seed),
        thresholds=thresholds,
        market=market,
        machines=Machines(options.host, ports, options.root, options.share),
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
        date_header=False,
        timeout_graceful_shutdown=2,
    )
    server = _Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, server.stop)
    said = {"url": public_url, "port": port, "ssh_host": public_host, "seed": options.seed}
    print(json.dumps(said), flush=True)
    await server.serve(sockets=[listener])


if __name__ == "__main__":
    main()
