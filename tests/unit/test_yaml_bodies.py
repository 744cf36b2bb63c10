"""A manifest in YAML is read as kubectl reads it, or not at all."""

from itertools import pairwise
from typing import Any

import pytest

from gpujob.server.http_api.yaml_bodies import YAML_BYTES_MAX, BadYaml, read_yaml

DEPTH = 32

MANIFEST = """
# As people write them.
apiVersion: gpujob.dev/v1alpha1
kind: GpuJob
metadata: {name: train, labels: {team: vision}}
spec:
  image: python:3.11
  command: [sh, -c]
  args:
  - |
    echo "one: 1"
    echo two
  suspend: false
  workingDir: ~
  gpu: &gpu {count: 2, models: [RTX 4090]}
  env:
  - {name: A, value: "1"}
  - {name: RELEASE, value: 1.2.3}
  - {name: DAY, value: 2026-01-01}
  cost:
    ceiling: '2.50'
  again: *gpu
"""


def test_a_manifest_is_read() -> None:
    """Flow and block, texts in and without quotes, anchors, comments."""
    read = read_yaml(MANIFEST, DEPTH)
    spec = read["spec"]

    assert (read["kind"], read["metadata"]["labels"]) == ("GpuJob", {"team": "vision"})
    assert spec["args"] == ['echo "one: 1"\necho two\n']
    assert (spec["suspend"], spec["workingDir"]) == (False, None)
    assert spec["gpu"] == spec["again"] == {"count": 2, "models": ["RTX 4090"]}
    assert [one["value"] for one in spec["env"]] == ["1", "1.2.3", "2026-01-01"]
    assert spec["cost"] == {"ceiling": "2.50"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8080", 8080),
        ("-1", -1),
        ("1.0", 1),
        ("2.5", 2.5),
        ("1e3", 1000),
        ("-6.942827284590439e-185", -6.942827284590439e-185),
        ("2.5e+264", int(2.5e264)),
        ("true", True),
        ("Null", None),
        ("", None),
        ('"yes"', "yes"),
        ("'017'", "017"),
        ("python:3.11", "python:3.11"),
        ("NaN", "NaN"),
        ("y", "y"),
    ],
)
def test_a_plain_word_is_what_json_can_hold(text: str, value: Any) -> None:
    """A whole number with a point is whole, as in JSON Schema."""
    read = read_yaml(f"a: {text}", DEPTH)["a"]

    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    "text",
    [
        *("yes", "No", "ON", "off", "017", "0x1f", "0o17", "1_000", "1:30", "12:30:45", ".5"),
        *("+1", "1.", ".inf", "-.INF", ".NaN", "9" * 30),
    ],
)
def test_what_readers_read_differently_is_refused(text: str) -> None:
    """kubectl takes `yes` for true, and 017 for 15."""
    with pytest.raises(BadYaml, match="put it in quotes"):
        read_yaml(f"a: {text}", DEPTH)


LETTERS = "abcdefghij"
LAUGHS = "a: &a [x]\n" + "".join(
    f"{now}: &{now} [{','.join([f'*{before}'] * 9)}]\n" for before, now in pairwise(LETTERS)
)

BAD = {
    "a tag": ("a: !!python/object/apply:os.system [id]", "tag"),
    "a tag of a text": ("a: !!str 1", "tag"),
    "a key twice": ("a: 1\na: 2", "twice"),
    "a key that is no text": ("1: 2", "not a text"),
    "a list as a key": ("? [1]\n: 2", "not a text"),
    "two documents": ("a: 1\n---\na: 2", "several documents"),
    "an anchor in itself": ("a: &x [*x]", "not whole"),
    "anchors that multiply": (LAUGHS, "too many"),
    "a text that is repeated": (
        f"a: &a {'x' * 100_000}\nb: [{','.join(['*a'] * 9000)}]",
        "too many",
    ),
    "deep": ("[" * 50_000, "too deeply"),
    "deep by indents": ("- " * 50_000, "too deeply"),
    "deep keys": ("? " * 50_000, "too deeply"),
    "many": ("[" + "1," * (YAML_BYTES_MAX // 2) + "]", "too many"),
    "no YAML": ("a: 'b", "line 1, column"),
    "a number that is too large": ("a: 1e309", "too large"),
    "a control character": ("a: \x07", "not YAML"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_manifest_is_refused_at_once(name: str) -> None:
    """Whatever it would have become."""
    text, words = BAD[name]
    with pytest.raises(BadYaml, match=words):
        read_yaml(text, DEPTH)
