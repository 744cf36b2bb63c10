"""SR-010: nothing is published without its bill of materials, or twice, or in part.

The stub stands for GitHub's REST API, which cannot be reached from here.
"""

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest

from releasing import publication
from releasing.github import Repository
from releasing.programs import ReleaseError
from releasing.publication import asset_of

TAG = "v1.2.3"
Object = dict[str, Any]


@dataclass
class GitHub:
    """Releases, assets and tags as GitHub keeps them, and what it may do wrong."""

    address: str = ""
    tags: set[str] = field(default_factory=lambda: {TAG})
    releases: dict[int, Object] = field(default_factory=dict)
    assets: dict[int, tuple[int, Object]] = field(default_factory=dict)
    """By number: the release and the asset."""
    published: int = 0
    lost: set[str] = field(default_factory=set)
    """Names whose upload is answered well and not kept."""
    cut: set[str] = field(default_factory=set)
    """Names of which only a part is kept."""
    fails_at: str | None = None
    """Name whose upload ends the run, once."""
    token: str = "secret"
    _number: int = 0

    def add_release(self, tag: str, *, draft: bool) -> int:
        """Makes a release."""
        self._number += 1
        upload = f"{self.address}/uploads/{self._number}/assets{{?name,label}}"
        self.releases[self._number] = {
            "id": self._number,
            "tag_name": tag,
            "draft": draft,
            "upload_url": upload,
            "html_url": f"https://github.com/o/r/releases/tag/{tag}",
        }
        return self._number

    def add_asset(self, release: int, name: str, content: bytes, state: str = "uploaded") -> None:
        """Keeps an asset."""
        self._number += 1
        made = asset_of(name, content)
        asset = {"id": self._number, "name": name, "state": state}
        self.assets[self._number] = release, asset | {"size": made.size, "digest": made.digest}

    def answer(self, method: str, path: str, content: bytes) -> tuple[int, Any]:
        """Answers one request."""
        asked = urlparse(path)
        query = {name: values[0] for name, values in parse_qs(asked.query).items()}
        route = asked.path.removeprefix("/repos/o/r/")
        if found := re.fullmatch(r"git/ref/tags/(.+)", route):
            return (200, {}) if found[1] in self.tags else (404, {"message": "Not Found"})
        if route == "releases" and method == "GET":
            return 200, self._page(list(self.releases.values()), query)
        if route == "releases" and method == "POST":
            wanted = json.loads(content)
            return 201, self.releases[self.add_release(wanted["tag_name"], draft=wanted["draft"])]
        if found := re.fullmatch(r"releases/(\d+)", route):
            release = self.releases[int(found[1])]
            if method == "PATCH":
                release |= json.loads(content)
                self.published += 1
            return 200, release
        if found := re.fullmatch(r"releases/(\d+)/assets", route):
            mine = [asset for release, asset in self.assets.values() if release == int(found[1])]
            return 200, self._page(mine, query)
        if found := re.fullmatch(r"releases/assets/(\d+)", route):
            del self.assets[int(found[1])]
            return 204, None
        if found := re.fullmatch(r"/uploads/(\d+)/assets", route):
            return self._upload(int(found[1]), query["name"], content)
        return 404, {"message": "Not Found"}

    def _upload(self, release: int, name: str, content: bytes) -> tuple[int, Any]:
        if name == self.fails_at:
            self.fails_at = None
            self.add_asset(release, name, b"", state="starter")
            return 502, {"message": "Server Error"}
        held = {asset["name"] for owner, asset in self.assets.values() if owner == release}
        if name in held:
            return 422, {"errors": [{"code": "already_exists"}]}
        if name not in self.lost:
            self.add_asset(release, name, content[:-1] if name in self.cut else content)
        return 201, {}

    @staticmethod
    def _page(items: list[Object], query: dict[str, str]) -> list[Object]:
        size, page = int(query["per_page"]), int(query["page"])
        return items[size * (page - 1) : size * page]


@pytest.fixture
def github() -> Iterator[GitHub]:
    """The stub, listening."""
    stub = GitHub()

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers["Authorization"] != f"Bearer {stub.token}":
                status, body = 401, {"message": "Bad credentials"}
            else:
                status, body = stub.answer(self.command, self.path, content)
            answered = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(answered)))
            self.end_headers()
            self.wfile.write(answered)

        do_GET = do_POST = do_PATCH = do_DELETE = _do  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
    yield stub
    server.shutdown()
    server.server_close()


@pytest.fixture
def repository(github: GitHub) -> Repository:
    """The repository behind the stub."""
    return Repository(github.address, "o/r", github.token)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """What a release holds."""
    made = []
    for name in (
        "sbom.json",
        "gpujob-operator-1.2.3.cdx.json",
        "gpujob-driver-1.2.3.cdx.json",
        "gpujob-1.2.3.tgz",
    ):
        (tmp_path / name).write_text(f"content of {name}")
        made.append(tmp_path / name)
    return made


def names(github: GitHub) -> list[str]:
    """Returns the names of all kept assets."""
    return sorted(asset["name"] for _, asset in github.assets.values())


def test_all_files_are_published(github: GitHub, repository: Repository, files: list[Path]) -> None:
    """Once, and only those."""
    assert repository.publish(TAG, files) == f"https://github.com/o/r/releases/tag/{TAG}"
    assert names(github) == sorted(path.name for path in files)
    assert github.published == 1
    assert [one["draft"] for one in github.releases.values()] == [False]


def test_without_a_bill_nothing_is_even_drafted(
    github: GitHub, repository: Repository, files: list[Path]
) -> None:
    """The files are looked at before GitHub is asked for anything."""
    with pytest.raises(ReleaseError, match=r"sbom\.json is not among the files"):
        repository.publish(TAG, files[1:])
    with pytest.raises(ReleaseError, match=r"gpujob-driver-\*\.cdx\.json is not among the files"):
        repository.publish(TAG, [file for file in files if "driver" not in file.name])
    assert github.releases == {}


@pytest.mark.parametrize("name", ["sbom.json", "gpujob-1.2.3.tgz"])
def test_what_github_does_not_list_is_not_published(
    name: str, github: GitHub, repository: Repository, files: list[Path]
) -> None:
    """However well the upload was answered."""
    github.lost.add(name)
    with pytest.raises(ReleaseError, match=f"stays a draft.*{re.escape(name)} is missing"):
        repository.publish(TAG, files)
    assert github.published == 0


def test_another_size_or_digest_is_not_published(
    github: GitHub, repository: Repository, files: list[Path]
) -> None:
    """What arrived is compared with what was sent."""
    github.cut.add("gpujob-1.2.3.tgz")
    with pytest.raises(ReleaseError, match=r"stays a draft.*is another file: 26 bytes"):
        repository.publish(TAG, files)
    assert github.published == 0


def test_nothing_is_published_twice(
    github: GitHub, repository: Repository, files: list[Path]
) -> None:
    """Somebody may have it already."""
    repository.publish(TAG, files)
    before = json.dumps([github.releases, github.assets])
    files[0].write_text("another bill")

    with pytest.raises(ReleaseError, match="already published"):
        repository.publish(TAG, files)
    assert json.dumps([github.releases, github.assets]) == before
    assert github.published == 1


def test_the_draft_of_a_failed_run_is_found_again(
    github: GitHub, repository: Repository, files: list[Path]
) -> None:
    """Also behind a full page; what it holds that is broken, old or foreign goes."""
    for number in range(120):
        github.add_release(f"v0.0.{number}", draft=False)
    github.fails_at = "gpujob-operator-1.2.3.cdx.json"
    with pytest.raises(ReleaseError, match="was answered 502"):
        repository.publish(TAG, files)
    (draft,) = (number for number, one in github.releases.items() if one["draft"])
    github.add_asset(draft, "gpujob-1.2.3.tgz", b"of an earlier commit")
    github.add_asset(draft, "notes.txt", b"foreign")

    repository.publish(TAG, files)

    assert [one["tag_name"] for one in github.releases.values()].count(TAG) == 1
    assert names(github) == sorted(path.name for path in files)
    assert github.published == 1


def test_two_drafts_are_left_to_a_person(
    github: GitHub, repository: Repository, files: list[Path]
) -> None:
    """Which one is meant cannot be known."""
    first, second = (github.add_release(TAG, draft=True) for _ in range(2))
    with pytest.raises(ReleaseError, match=rf"2 drafts \({first}, {second}\)"):
        repository.publish(TAG, files)
    assert github.published == 0


def test_a_tag_that_is_gone_is_not_made(
    github: GitHub, repository: Repository, files: list[Path]
) -> None:
    """GitHub would put it on the newest commit."""
    github.tags.clear()
    with pytest.raises(ReleaseError, match=r"git/ref/tags/v1\.2\.3 was answered 404"):
        repository.publish(TAG, files)
    assert github.releases == {}


def test_the_token_is_in_no_error(github: GitHub, files: list[Path]) -> None:
    """Logs of a workflow are public."""
    wrong = Repository(github.address, "o/r", "canary-token")
    with pytest.raises(ReleaseError, match="answered 401") as refused:
        wrong.publish(TAG, files)
    assert "canary-token" not in f"{refused.value}{wrong!r}"


BILLS = ("sbom.json", "gpujob-driver-1.2.3.cdx.json")


def test_an_asset_that_does_not_belong_is_a_fault() -> None:
    """Someone else may have put it there between two looks."""
    wanted = [asset_of(name, b"1") for name in BILLS]
    held = publication.read_held(
        {"id": n, "name": one.name, "size": 1, "digest": one.digest, "state": "uploaded"}
        for n, one in enumerate([*wanted, asset_of("setup.exe", b"2")])
    )

    assert publication.faults(wanted, held) == ["setup.exe does not belong there"]


def test_an_asset_without_a_digest_is_a_fault() -> None:
    """Unknown is not equal."""
    listed = [
        {"id": 1, "name": name, "size": 1, "digest": None, "state": "uploaded"} for name in BILLS
    ]
    wanted = [asset_of(name, b"1") for name in BILLS]
    found = publication.faults(wanted, publication.read_held(listed))

    assert len(found) == 2
    assert all("is another file" in one for one in found)
