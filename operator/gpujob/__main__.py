"""`python -m gpujob`: the controller; `python -m gpujob driver`: the driver."""

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
        choices=("controller", "driver"),
        default="controller",
        help="controller (the default): watches, rents, destroys; driver: runs one workload",
    )
    program = parser.parse_args().program
    if program == "driver":
        from gpujob.driver.main import main as driver

        driver()
        return
    from gpujob.controller import main as controller

    try:
        sys.exit(controller())
    except ConfigError as error:
        sys.exit(f"gpujob: {error}")


if __name__ == "__main__":
    main()
