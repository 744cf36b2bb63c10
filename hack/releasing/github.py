"""Publishes releases by GitHub's REST API: draft, upload, check, publish."""

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from releasing import publication
from releasing.programs import ReleaseError

PAGE = 100
SECONDS = 60.0
"""Timeout of one request."""


@dataclass(frozen=True)
class Repository:
    """A repository, and the token to access it."""

    api: str
    """https://api.github.com, or another address of the same API."""
    name: str
    """OWNER/REPOSITORY"""
    token: str = field(repr=False)

    @classmethod
    def from_environment(cls) -> "Repository":
        """Returns the repository of this workflow run; raises ReleaseError without one."""
        names = ("GITHUB_API_URL", "GITHUB_REPOSITORY", "GITHUB_TOKEN")
        if lacking := [name for name in names if not os.environ.get(name)]:
            raise ReleaseError(f"set {', '.join(lacking)}, which a workflow on GitHub has")
        return cls(*(os.environ[name] for name in names))

    def publish(self, tag: str, files: list[Path]) -> str:
        """Publishes the files as a release; returns its address for people.

        It starts with a draft, because nothing can be added to an immutable release later. It
        raises ReleaseError and publishes nothing unless GitHub lists exactly these files.
        """
        contents = {path.name: path.read_bytes() for path in files}
        wanted = [publication.asset_of(name, content) for name, content in contents.items()]
        if absent := publication.missing_bills(contents):
            raise ReleaseError(f"{absent[0]} is not among the files: nothing is published")
        self._ask("GET", f"git/ref/tags/{tag}")  # without the tag GitHub would create it
        number = self._draft(tag)
        for left in publication.leftovers(wanted, self._held(number)):
            self._ask("DELETE", f"releases/assets/{left.number}")
        for asset in publication.missing(wanted, self._held(number)):
            self._upload(number, asset.name, contents[asset.name])
        if found := publication.faults(wanted, self._held(number)):
            raise ReleaseError(f"{tag} stays a draft: {'; '.join(found)}")
        published = self._ask("PATCH", f"releases/{number}", {"draft": False})
        return str(published["html_url"])

    def _draft(self, tag: str) -> int:
        found = publication.find_draft(tag, self._all("releases"))
        if isinstance(found, str):
            raise ReleaseError(found)
        if found is not None:
            return found.number
        wanted = {"tag_name": tag, "name": tag, "draft": True, "generate_release_notes": True}
        return int(self._ask("POST", "releases", wanted)["id"])

    def _held(self, number: int) -> list[publication.Held]:
        return publication.read_held(self._all(f"releases/{number}/assets"))

    def _all(self, path: str) -> list[Any]:
        found: list[Any] = []
        page = 1
        while more := self._ask("GET", f"{path}?per_page={PAGE}&page={page}"):
            found += more
            page += 1
        return found

    def _upload(self, number: int, name: str, content: bytes) -> None:
        # It looks like `https://uploads…/assets{?name,label}`, on another host than the API.
        target = self._ask("GET", f"releases/{number}")["upload_url"].partition("{")[0]
        self._send("POST", f"{target}?name={urllib.parse.quote(name)}", content)

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        return self._send(method, f"{self.api}/repos/{self.name}/{path}", content)

    def _send(self, method: str, address: str, content: bytes | None) -> Any:
        request = urllib.request.Request(address, data=content, method=method)  # noqa: S310
        request.add_header("Accept", "application/vnd.github+json")
        request.add_header("Authorization", f"Bearer {self.token}")
        request.add_header("X-GitHub-Api-Version", "2022-11-28")
        if content is not None:
            request.add_header("Content-Type", "application/octet-stream")
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
                answered = answer.read()
        except urllib.error.HTTPError as refused:
            said = refused.read().decode(errors="replace")[:1000]
            raise ReleaseError(f"{method} {address} was answered {refused.code}: {said}") from None
        except (urllib.error.URLError, TimeoutError) as failed:
            raise ReleaseError(f"{method} {address} failed: {failed}") from None
        return json.loads(answered) if answered else None
