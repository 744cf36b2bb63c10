"""Runs commands of the provider's official command line, each in a process of its own.

It is run by the Python that has the package. Each line of its input is the arguments of one command
as JSON; each line of its output is the exit status and what it said, as JSON. The package is
imported once and each command forked from there, because an import takes most of a second.
"""

import importlib
import json
import os
import pkgutil
import sys
import tempfile
from typing import IO, Any


def main() -> None:
    """Runs the commands of the input."""
    command_line: Any = importlib.import_module("vastai.cli.main")
    commands: Any = importlib.import_module("vastai.cli.commands")
    for module in pkgutil.iter_modules(commands.__path__):
        importlib.import_module(f"vastai.cli.commands.{module.name}")
    for line in sys.stdin:
        with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as errors:
            child = os.fork()
            if child == 0:
                _run(command_line, json.loads(line), said, errors)
            _, status = os.waitpid(child, 0)
            answer: dict[str, Any] = {"status": os.waitstatus_to_exitcode(status)}
            for name, stream in (("said", said), ("errors", errors)):
                stream.seek(0)
                answer[name] = stream.read()
        print(json.dumps(answer), flush=True)


def _run(command_line: Any, arguments: list[str], said: IO[str], errors: IO[str]) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(said.fileno(), 1)
    os.dup2(errors.fileno(), 2)
    sys.argv = ["vastai", *arguments]
    status = 1
    try:
        ended = command_line.main()
        status = ended if isinstance(ended, int) else 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
