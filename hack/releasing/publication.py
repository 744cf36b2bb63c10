"""What may be published: decided from what GitHub says it holds."""

import fnmatch
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

BILLS = ("sbom.json", "gpujob-driver-*.cdx.json")
"""No release without the bills of materials of the operator and of the driver."""


@dataclass(frozen=True)
class Asset:
    """One file of a release."""

    name: str
    size: int
    """Bytes."""
    digest: str
    """sha256:…"""


@dataclass(frozen=True)
class Held:
    """An asset as GitHub lists it."""

    number: int
    asset: Asset
    uploaded: bool
    """False while an upload goes on, or if it broke off."""


@dataclass(frozen=True)
class Draft:
    """A release that nobody sees yet."""

    number: int


def asset_of(name: str, content: bytes) -> Asset:
    """Returns what a file must be listed as."""
    return Asset(name, len(content), f"sha256:{hashlib.sha256(content).hexdigest()}")


def read_held(listed: Iterable[Mapping[str, Any]]) -> list[Held]:
    """Returns the assets of GitHub's list."""
    return [
        Held(
            one["id"],
            Asset(one["name"], one["size"], one.get("digest") or "none"),
            one.get("state") == "uploaded",
        )
        for one in listed
    ]


def find_draft(tag: str, releases: Iterable[Mapping[str, Any]]) -> Draft | str | None:
    """Returns the draft to go on with, None if one is to be made, or why neither may be.

    A run that failed leaves a draft, and only the list of all releases shows it. What is published
    is never touched again: somebody may have it.
    """
    same = [one for one in releases if one["tag_name"] == tag]
    if any(not one["draft"] for one in same):
        return f"{tag} is published already; release another version"
    if len(same) > 1:
        numbers = ", ".join(str(one["id"]) for one in same)
        return f"{tag} has {len(same)} drafts ({numbers}): delete all but one"
    return Draft(same[0]["id"]) if same else None


def leftovers(wanted: Iterable[Asset], held: Iterable[Held]) -> list[Held]:
    """Returns the assets that an earlier run left and that are not what is wanted."""
    good = set(wanted)
    return [one for one in held if one.asset not in good or not one.uploaded]


def missing(wanted: Iterable[Asset], held: Iterable[Held]) -> list[Asset]:
    """Returns the assets that are still to be uploaded."""
    there = {one.asset for one in held if one.uploaded}
    return [one for one in wanted if one not in there]


def missing_bills(names: Iterable[str]) -> list[str]:
    """Returns which bills of materials are not among these files."""
    held = list(names)
    return [bill for bill in BILLS if not fnmatch.filter(held, bill)]


def faults(wanted: Iterable[Asset], held: Iterable[Held]) -> list[str]:
    """Returns why the release may not be published: nothing if its list is just what is wanted."""
    wanted = list(wanted)
    listed = {one.asset.name: one for one in held}
    found = []
    for bill in missing_bills({one.name for one in wanted} & listed.keys()):
        found.append(f"{bill} is not among the assets")
    for one in wanted:
        there = listed.pop(one.name, None)
        if there is None:
            found.append(f"{one.name} is missing")
        elif not there.uploaded:
            found.append(f"{one.name} is not wholly uploaded")
        elif there.asset != one:
            found.append(
                f"{one.name} is another file: {there.asset.size} bytes, {there.asset.digest}; "
                f"wanted are {one.size} bytes, {one.digest}"
            )
    found += [f"{name} does not belong there" for name in sorted(listed)]
    return found
