"""SR-010: the bill of materials says what is in the image."""

import re

import pytest
from tests.release.parts import index_of

from releasing import sbom
from releasing.sbom import Contents, Document, Package

LOCK = sbom.LOCKS["operator"].read_text()
PINNED = dict(re.findall(r"^([a-z0-9._-]+)==([^ \\]+)", LOCK, re.MULTILINE))
REFERENCE = f"ghcr.io/gpujob/gpujob-operator@sha256:{'1' * 64}"
PYTHON = frozenset(PINNED.items())
LIBC = Package("libc6", "2.41-12+deb13u1", "amd64", "debian-13")
HELD = Contents(frozenset({LIBC}), PYTHON)


@pytest.fixture(scope="module")
def lock() -> Document:
    """What cyclonedx-py makes of the lock."""
    return sbom.from_lock("operator")


@pytest.fixture(scope="module")
def bill(image: str) -> Document:
    """The bill of the image that was built from this work tree."""
    return sbom.make("operator", image, "1.2.3")


def test_it_lists_each_pin_and_else_only_debian_packages(bill: Document) -> None:
    """Nothing is missing and nothing is made up."""
    python, debian = {}, []
    for one in bill["components"]:
        if one["purl"].startswith("pkg:pypi/"):
            python[one["name"]] = one["version"]
        else:
            debian.append(one)

    assert python == PINNED
    assert len(PINNED) == LOCK.count("==") - LOCK.count("python_version ==")
    assert {"libc6", "libssl3t64", "python3.13-minimal"} <= {one["name"] for one in debian}
    assert all(one["purl"].startswith("pkg:deb/debian/") for one in debian)
    assert not {"dpkg", "tar", "dash", "bash", "apt"} & {one["name"] for one in debian}


def test_the_drivers_image_has_a_bill_of_its_own(driver_image: str) -> None:
    """It lists the packages of its own lock, and what must not be in it is not."""
    bill = sbom.make("driver", driver_image, "1.2.3")
    listed = {one["name"] for one in bill["components"] if one["purl"].startswith("pkg:pypi/")}

    assert bill["metadata"]["component"]["name"] == "gpujob-driver"
    assert listed == set(re.findall(r"^([a-z0-9._-]+)==", sbom.LOCKS["driver"].read_text(), re.M))
    assert listed.isdisjoint({"aiohttp", "fastapi", "kopf", "kubernetes", "uvicorn"})


def test_it_names_the_image(bill: Document, image: str) -> None:
    """By digest, so that nobody takes it for another's."""
    subject = bill["metadata"]["component"]

    assert (subject["name"], subject["version"]) == ("gpujob-operator", "1.2.3")
    assert image.partition("@sha256:")[2] == subject["hashes"][0]["content"]


def test_each_platform_is_read(image: str) -> None:
    """Of an index, which is what is released."""
    both, second = index_of(image)
    contents = [sbom.read_contents(both, platform) for platform in sbom.platforms(both)]

    assert sbom.platforms(both) == ["linux/amd64", "linux/arm64"]
    assert sbom.platforms(second) == ["linux/arm64"]
    assert contents[0] == contents[1]
    assert {name for name, _ in contents[1].python} == set(PINNED)


def test_each_pin_bears_the_hashes_of_the_lock(lock: Document) -> None:
    """The hashes by which pip let it in."""
    listed = {
        entry["content"]
        for one in lock["components"]
        for reference in one["externalReferences"]
        for entry in reference.get("hashes", [])
    }

    assert listed == set(re.findall(r"--hash=sha256:([0-9a-f]{64})", LOCK))


def test_the_same_image_gives_the_same_bytes(lock: Document) -> None:
    """No time and no serial number is in it."""
    first = sbom.text(sbom.compose(lock, REFERENCE, "1.2.3", [HELD]))
    second = sbom.text(sbom.compose(sbom.from_lock("operator"), REFERENCE, "1.2.3", [HELD]))

    assert first == second


def test_what_does_not_fit_the_image_is_refused(lock: Document) -> None:
    """A pin that was not installed, something that no pin names, an image without records."""
    bill = sbom.compose(lock, REFERENCE, "1.2.3", [HELD])
    assert sbom.content_faults(bill, [HELD]) == []
    name, version = sorted(PYTHON)[0]
    more = Contents(HELD.debian, PYTHON | {("left-pad", "1.3.0")})
    less = Contents(HELD.debian, PYTHON - {(name, version)})

    assert "left-pad" in sbom.content_faults(bill, [HELD, more])[0]
    assert sbom.content_faults(bill, [less]) == [
        f"listed, but not in the image: [{(name, version)!r}]"
    ]
    assert sbom.content_faults(bill, [Contents(frozenset(), PYTHON)]) == [
        "the image names no Debian package"
    ]


def test_what_is_no_cyclonedx_is_refused(lock: Document) -> None:
    """By the schema, in its strict form."""
    bill = sbom.compose(lock, REFERENCE, "1.2.3", [HELD]) | {"surprise": 1}

    assert "not CycloneDX 1.6" in sbom.schema_faults(bill)[0]


def test_distroless_records_are_read() -> None:
    """They keep a list of checksums beside each record."""
    contents = sbom.contents_of(
        {
            "usr/lib/os-release": 'ID=debian\nVERSION_ID="13"\n',
            "var/lib/dpkg/status.d/libc6": f"Package: {LIBC.name}\nVersion: {LIBC.version}\n"
            "Architecture: amd64\nDescription: GNU C Library\n more: of it\n",
            "var/lib/dpkg/status.d/libc6.md5sums": "00  usr/lib/libc.so.6\n",
            "opt/gpujob/Foo_Bar-1.0.dist-info/METADATA": "Name: Foo_Bar\nVersion: 1.0\n\nText\n",
        }
    )

    assert contents == Contents(frozenset({LIBC}), frozenset({("foo-bar", "1.0")}))
