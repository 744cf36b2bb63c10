"""Asks gpuhunt for offers of the provider, and prints them.

It is run by the Python that has the package; each line of its input is the filters of one query as
JSON, each line of its output what was found.
"""

import dataclasses
import importlib
import json
import sys
from typing import Any


def main() -> None:
    """Asks the queries of the input."""
    provider: Any = importlib.import_module("gpuhunt.providers.vastai")
    models: Any = importlib.import_module("gpuhunt._internal.models")
    for line in sys.stdin:
        asked = json.loads(line)
        for name in ("min_compute_capability", "max_compute_capability"):
            if name in asked:
                asked[name] = tuple(asked[name])
        extra = asked.pop("extra", None)
        hunting = provider.VastAIProvider(extra_filters=extra)
        found = hunting.get(models.QueryFilter(**asked))
        print(json.dumps([dataclasses.asdict(one) for one in found], default=str), flush=True)


if __name__ == "__main__":
    main()
