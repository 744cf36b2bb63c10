"""All decisions, as pure and synchronous functions of an observation that includes the time."""
