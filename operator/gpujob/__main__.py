"""`python -m gpujob [PROGRAM]`: starts one of the programs, by default the controller."""

import argparse
import sys

from gpujob.adapters.environment import ConfigError
from gpujob.adapters.memory import keep_private
from gpujob.server.http_api import token_command


def main() -> None:
    """Runs the program that the first argument names; without an argument, the controller."""
    parser = argparse.ArgumentParser(
        prog="gpujob",
        description="Runs GpuJobs on rented GPU machines. All programs read their settings from "
        "environment variables GPUJOB_*. The controller also reads the account's API key, from "
        "VAST_API_KEY.",
    )
    programs = parser.add_subparsers(dest="program", metavar="PROGRAM")
    programs.add_parser("controller", help="rents and destroys machines for GpuJobs (default)")
    programs.add_parser(
        "server", help="checks GpuJobs before they are stored, and serves the HTTP API"
    )
    programs.add_parser("driver", help="runs one workload on its machine")
    token = programs.add_parser("token", help="creates a token for the HTTP API")
    token_command.add_arguments(token)
    given = parser.parse_args()
    keep_private()
    if given.program == "token":
        sys.exit(token_command.main(given))
    if given.program == "driver":
        from gpujob.driver.main import main as driver

        driver()
        return
    if given.program == "server":
        from gpujob.server.main import main as run
    else:
        from gpujob.controller.main import main as run

    try:
        sys.exit(run())
    except ConfigError as error:
        sys.exit(f"gpujob: {error}")


if __name__ == "__main__":
    main()
