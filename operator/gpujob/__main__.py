"""`python -m gpujob`: the controller; or, named as an argument, the server or a driver."""

import argparse
import sys

from gpujob.adapters.environment import ConfigError
from gpujob.adapters.memory import keep_private
from gpujob.server.http_api import token_command


def main() -> None:
    """Runs what the first argument names; without one, the controller."""
    parser = argparse.ArgumentParser(
        prog="gpujob",
        description="Runs GpuJobs on rented GPU machines. Settings come from environment variables "
        "GPUJOB_*; the controller takes the account's token from VAST_API_KEY.",
    )
    programs = parser.add_subparsers(dest="program", metavar="PROGRAM")
    programs.add_parser("controller", help="the default: watches, rents, destroys")
    programs.add_parser(
        "server", help="answers the API server's reviews of GpuJobs, and the HTTP API"
    )
    programs.add_parser("driver", help="runs one workload")
    token = programs.add_parser("token", help="makes a token for the HTTP API")
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
