"""Reads a program's settings from environment variables `GPUJOB_<NAME>`."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any
from urllib.parse import urlsplit

VARIABLE_PREFIX = "GPUJOB_"


class ConfigError(ValueError):
    """A setting is missing or wrong; the message says which."""


def settings_in(environment: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Returns full name and value of each of our variables, by the name of its setting."""
    return {
        name.removeprefix(VARIABLE_PREFIX).lower(): (name, text)
        for name, text in environment.items()
        if name.startswith(VARIABLE_PREFIX)
    }


def taken(
    kind: type[Any], given: dict[str, tuple[str, str]], besides: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Takes the settings of a class out of `given`; raises ConfigError if any is left over."""
    own = {
        setting.name: converted(setting.type, *given.pop(setting.name))
        for setting in fields(kind)
        if setting.name in given and setting.name not in besides
    }
    if given:
        unknown = ", ".join(sorted(name for name, _ in given.values()))
        raise ConfigError(f"unknown setting: {unknown}; see Settings in helm/gpujob/README.md")
    return own


def is_address(text: str) -> bool:
    """Whether a text is an http or https URL with a host and without a query."""
    parts = urlsplit(text)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query


def converted(kind: Any, name: str, text: str) -> Any:
    """Returns a setting as its type; raises ConfigError naming the variable."""
    try:
        value = kind(text)
    except ValueError:
        raise ConfigError(f"{name} must be of type {kind.__name__}, not {text!r}") from None
    if isinstance(value, int | float) and not 0 <= value < 1e9:
        raise ConfigError(f"{name} must be at least 0 and finite, not {text!r}")
    return value
