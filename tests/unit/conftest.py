"""How generated cases are run."""

import os

from hypothesis import settings

# No case may fail for being slow, and what decides about landing must not be left to luck.
settings.register_profile("ours", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("ours")
