"""Reads a program's settings from environment variables `GPUJOB_<NAME>`."""

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any
from urllib.parse import urlsplit

VARIABLE_PREFIX = "GPUJOB_"


class ConfigError(ValueError):
    """A setting is missing or wrong. The message names its variable and says what is allowed."""


def settings_in(environment: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Returns the variable of each setting: its full name and its text, by the setting's name."""
    return {
        name.removeprefix(VARIABLE_PREFIX).lower(): (name, text)
        for name, text in environment.items()
        if name.startswith(VARIABLE_PREFIX)
    }


def taken(
    kind: type[Any], given: dict[str, tuple[str, str]], besides: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Converts the fields of a class that are given; raises ConfigError if others are given too."""
    own = {
        setting.name: converted(setting.type, *given.pop(setting.name))
        for setting in fields(kind)
        if setting.name in given and setting.name not in besides
    }
    if given:
        unknown = ", ".join(sorted(name for name, _ in given.values()))
        raise ConfigError(
            f"unknown setting: {unknown}; see 'Environment variables' in helm/gpujob/README.md"
        )
    return own


def is_address(text: str, *schemes: str) -> bool:
    """True for a URL with one of the schemes (http or https), a host, and no query."""
    parts = urlsplit(text)
    return (
        parts.scheme in (schemes or ("http", "https")) and bool(parts.hostname) and not parts.query
    )


def namespaces_in(name: str, text: str, own_namespace: str) -> tuple[str, ...]:
    """Returns the namespaces that a variable names, with commas between them; raises ConfigError.

    No job may be where the operator's Secrets are, nor where the cluster's are.
    """
    found = tuple(text.split(",")) if text else ()
    for one in found:
        if not re.fullmatch("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", one) or found.count(one) > 1:
            raise ConfigError(
                f"{name} must be names of namespaces with commas between them, each once"
            )
        if one == own_namespace or one.startswith("kube-"):
            raise ConfigError(
                f"{name} must not name {one}: jobs there could read its Secrets; leave it out"
            )
    return found


def converted(kind: Any, name: str, text: str) -> Any:
    """Returns a setting as its type; raises ConfigError naming the variable."""
    if kind is bool:
        if text not in ("true", "false"):
            raise ConfigError(f"{name} must be true or false, not {text!r}")
        return text == "true"
    try:
        value = kind(text)
    except ValueError:
        wanted = "an integer" if kind is int else "a number"
        raise ConfigError(f"{name} must be {wanted}, not {text!r}") from None
    if isinstance(value, int | float) and not 0 <= value < 1e9:
        raise ConfigError(f"{name} must be at least 0 and less than 1e9, not {text!r}")
    return value
