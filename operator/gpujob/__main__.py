"""`python -m gpujob`: the controller; or, named as an argument, the server or a driver."""

import argparse
import sys

from gpujob.config import ConfigError


def main() -> None:
    """Runs what the first argument names; without one, the controller."""
    parser = argparse.ArgumentParser(
        prog="gpujob",
        description="Runs GpuJobs on rented GPU machines. Settings come from environment variables "
        "GPUJOB_*; the controller takes the account's token from VAST_API_KEY.",
    )
    parser.add_argument(
        "program",
        nargs="?",
        choices=("controller", "server", "driver"),
        default="controller",
        help="controller (the default): watches, rents, destroys; server: answers the API server's "
        "reviews of GpuJobs; driver: runs one workload",
    )
    program = parser.parse_args().program
    if program == "driver":
        from gpujob.driver.main import main as driver

        driver()
        return
    if program == "server":
        from gpujob.server import main as run
    else:
        from gpujob.controller import main as run

    try:
        sys.exit(run())
    except ConfigError as error:
        sys.exit(f"gpujob: {error}")


if __name__ == "__main__":
    main()
