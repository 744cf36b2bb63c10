"""`python -m gpujob token`: what an administrator sees and applies."""

import base64
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from gpujob.core.api_tokens import grant_of, known_tokens, token_fault
from gpujob.server.settings import ServerSettings


def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "gpujob", "token", *arguments]
    environment = os.environ | variables
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_what_is_printed_is_what_is_known() -> None:
    """The token once, on standard error; of the manifest alone nobody could make it."""
    done = run("ci", "--namespaces", "team-a,team-b", "--access", "read", "--days", "30")
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)
    (token,) = re.findall(r"gpujob_[A-Za-z0-9_-]{48}", done.stderr)
    data = {name: base64.b64decode(text) for name, text in manifest["data"].items()}
    known, wrong = known_tokens(data)
    now = datetime.now(UTC)
    grant = grant_of(token, known, now)

    assert (manifest["kind"], manifest["metadata"]["name"]) == ("Secret", "gpujob-api-tokens")
    assert token not in done.stdout
    assert wrong == ()
    assert token_fault(token) == ""
    assert grant is not None
    assert (grant.name, grant.access) == ("ci", "read")
    assert grant.namespaces == {"team-a", "team-b"}
    assert grant_of(token, known, now + timedelta(days=29)) == grant
    assert grant_of(token, known, now + timedelta(days=31)) is None


def test_a_bootstrap_token_is_one_that_the_server_takes() -> None:
    """It stands in the manifest alone: whoever applies it need not see it."""
    done = run("first", "--bootstrap")
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)
    token = base64.b64decode(manifest["data"]["token"]).decode()
    environment = {"GPUJOB_NAMESPACE": "x", "GPUJOB_API_BOOTSTRAP_TOKEN": token}

    assert manifest["metadata"] == {"name": "first", "namespace": "gpujob-system"}
    assert token not in done.stderr
    assert ServerSettings.from_environment(environment).api_bootstrap_token == SecretStr(token)


def test_in_a_pod_of_the_release_it_knows_where_the_digest_belongs() -> None:
    """Elsewhere nobody would read it, and the token would never work."""
    given = ("ci", "--namespaces", "*", "--access", "read")
    done = run(*given, GPUJOB_NAME="prod-gpujob", GPUJOB_NAMESPACE="ml-ops")
    meta = json.loads(done.stdout)["metadata"]

    assert meta == {"name": "prod-gpujob-api-tokens", "namespace": "ml-ops"}
    assert "-n ml-ops" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("CI!", "--namespaces", "*", "--access", "read"), "the name may contain"),
        (("ci", "--namespaces", "Team", "--access", "read"), "--namespaces"),
        (("ci", "--namespaces", "", "--access", "read"), "--namespaces"),
        (("ci", "--namespaces", "*", "--access", "admin"), "--access"),
        (("ci", "--namespaces", "*", "--access", "read", "--days", "0"), "--days"),
        (("ci", "--access", "read"), "--namespaces"),
        (("ci", "--namespaces", "*"), "--access"),
    ],
)
def test_a_mistake_is_named(arguments: tuple[str, ...], word: str) -> None:
    """And no token is made."""
    done = run(*arguments)

    assert done.returncode == 2
    assert word in done.stderr
    assert "gpujob_" not in done.stderr
    assert done.stdout == ""
