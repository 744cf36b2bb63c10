"""`python -m gpujob [PROGRAM]`: starts one of the programs, by default the controller.

A program is imported only when it is chosen: the driver's image holds nothing of the others.
"""

import os
import signal

if __name__ == "__main__":
    # The first process of a container gets no signal that it has not asked for, and the imports
    # take seconds. There is nothing to undo yet; each program soon replaces this.
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))

import argparse
import sys

from gpujob.adapters.environment import ConfigError
from gpujob.adapters.memory import keep_private

PROGRAMS = {
    "controller": "rents and destroys machines for GpuJobs (default)",
    "server": "checks GpuJobs before they are stored, and serves the HTTP API",
    "driver": "runs one workload on its machine",
    "token": "creates a token for the HTTP API",
}


def main() -> None:
    """Runs the program that the first argument names; without an argument, the controller."""
    parser = argparse.ArgumentParser(
        prog="gpujob",
        description="Runs GpuJobs on rented GPU machines. All programs read their settings from "
        "environment variables GPUJOB_*. The controller also reads the account's API key, from "
        "VAST_API_KEY.",
    )
    programs = parser.add_subparsers(dest="program", metavar="PROGRAM")
    for name, words in PROGRAMS.items():
        programs.add_parser(name, help=words)
    chosen = parser.parse_args(sys.argv[1:2]).program or "controller"
    rest = sys.argv[2:]
    keep_private()
    if chosen == "token":
        from gpujob.server.http_api.token_command import main as make_token

        sys.exit(make_token(rest))
    # The other programs have settings, and no arguments.
    argparse.ArgumentParser(prog=f"gpujob {chosen}", description=PROGRAMS[chosen]).parse_args(rest)
    if chosen == "driver":
        from gpujob.driver.main import main as drive

        drive()
        return
    if chosen == "server":
        from gpujob.server.main import main as run
    else:
        from gpujob.controller.main import main as run

    try:
        sys.exit(run())
    except ConfigError as error:
        sys.exit(f"gpujob: {error}")


if __name__ == "__main__":
    main()
