"""No secret passes the log's sink, whoever logs, at any level, in any spelling."""

import asyncio
import base64
import gc
import json
import logging
import re
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

import pytest
import structlog
from pydantic import SecretStr

from gpujob.adapters.log import configure_logging
from gpujob.adapters.redact import REPLACEMENT, Scrubber
from gpujob.adapters.sink import ScrubbingHandler

SECRET = 'kanari-0123/456+789 "ö\\x>>>>>'
"""Every character of it that an encoding changes."""
LIBRARIES = (
    *("gpujob.controller", "kopf", "kopf.objects", "uvicorn", "uvicorn.error", "aiohttp.client"),
    *("asyncssh", "kubernetes", "kubernetes.aio.client.rest", "asyncio", "py.warnings", "root"),
)
LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)

JWT = "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiJjYW5hcnkifQ.c2lnbmF0dXJlLWNhbmFyeQ"
PEM = (
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUkanari\n"
    "AAAAkanari==\n-----END OPENSSH PRIVATE KEY-----\n"
)
HEX = "c0ffee" * 10 + "abcd"


def restored() -> Iterator[None]:
    """Gives everything back that `configure` takes."""
    root, held = logging.getLogger(), [logging.getLogger(name) for name in LIBRARIES]
    held.append(logging.getLogger("uvicorn.access"))
    handlers, level = root.handlers[:], root.level
    before = [(one, one.level, one.propagate, one.disabled) for one in held]
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for logger, level, propagates, disabled in before:
        logger.setLevel(level)
        logger.propagate, logger.disabled = propagates, disabled
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    logging.captureWarnings(False)
    structlog.reset_defaults()


given_back = pytest.fixture(restored)


class Said:
    """What has come out of the sink."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def lines(self) -> list[dict[str, Any]]:
        """Returns what was said since the last call, each line being JSON; none may be secret."""
        text = self._capsys.readouterr().err
        assert "kanari" not in text
        return [json.loads(line) for line in text.splitlines()]

    def line(self) -> dict[str, Any]:
        """Returns the one line that was said."""
        (only,) = self.lines()
        return only


@pytest.fixture
def said(given_back: None, capsys: pytest.CaptureFixture[str]) -> Said:
    """A sink that is open for everything and knows one secret."""
    configure_logging("DEBUG", [SecretStr(SECRET)])
    logging.getLogger().setLevel(1)
    return Said(capsys)


# --- Who logs, and what -----------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS, ids=str)
@pytest.mark.parametrize("library", LIBRARIES)
def test_whoever_logs_shows_no_secret(said: Said, library: str, level: int) -> None:
    """In the message, in its arguments, in the stack; the rest of the line is there."""
    logger = logging.getLogger(library)
    logger.log(level, SECRET)
    logger.log(level, "an argument: %s, %r", SECRET, [{"deep": (SECRET,)}], stack_info=True)
    logger.log(level, "named: %(token)s", {"token": SECRET})
    structlog.get_logger(library).log(level, "ours", key=SECRET, nested={SECRET: [SECRET]})

    lines = said.lines()
    assert [line["event"].split()[0] for line in lines] == [REPLACEMENT, "an", "named:", "ours"]
    assert all(REPLACEMENT in json.dumps(line) for line in lines)


def test_exceptions_show_no_secret(said: Said) -> None:
    """Nor their causes, contexts, notes, groups, and locals that somebody adds."""
    seen = SECRET

    def broken() -> None:
        try:
            try:
                raise KeyError(seen)
            except KeyError as error:
                error.add_note(f"a note with {seen}")
                raise OSError(5, seen, seen) from error
        except OSError:
            raise ExceptionGroup(seen, [ValueError(seen), TypeError({seen: seen})])  # noqa: B904

    for logger in (logging.getLogger("theirs"), structlog.get_logger("ours")):
        try:
            broken()
        except ExceptionGroup as error:
            logger.exception("broke")
            logger.error("again", exc_info=error)
            frames = traceback.TracebackException.from_exception(error, capture_locals=True)
            logger.warning("".join(frames.format()))

    lines = said.lines()
    assert len(lines) == 6
    assert all("ExceptionGroup" in json.dumps(line) for line in lines)
    assert [line["event"] for line in lines][:2] == ["broke", "again"]


def test_a_line_that_can_not_be_rendered_is_logged(said: Said) -> None:
    """Python would print the record as it is; ours names it, and shows no secret."""

    class Odd:
        def __str__(self) -> str:
            raise RuntimeError(f"no text of {SECRET}")

        __repr__ = __str__

    loop: list[Any] = []
    loop.append(loop)
    # The test runner's own handlers raise.
    root = logging.getLogger()
    root.handlers[:] = [one for one in root.handlers if isinstance(one, ScrubbingHandler)]
    logging.getLogger("theirs").error("too few: %s %s", SECRET)
    logging.getLogger("theirs").error("none asked for", SECRET)
    logging.getLogger("theirs").error("odd: %s", Odd())
    structlog.get_logger("ours").error("event", odd=Odd(), key=SECRET)
    structlog.get_logger("ours").error("event", loop=loop, key=SECRET)
    structlog.get_logger("ours").error("event", keys={(SECRET, 1): 2})
    try:
        raise ValueError(SECRET)
    except ValueError:
        logging.getLogger("theirs").exception("%d", SECRET)

    lines = said.lines()
    assert len(lines) == 7
    assert all("cannot be rendered" in line["event"] for line in lines)
    assert {(line["level"], line["logger"]) for line in lines} == {
        ("error", "theirs"),
        ("error", "ours"),
    }
    assert "too few" in lines[0]["event"]
    assert "ValueError" in lines[6]["event"]


def test_a_closed_stream_ends_nothing(
    said: Said, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody hears the line, and nobody is told of it."""

    class Closed:
        def write(self, text: str) -> None:
            raise ValueError(f"closed: {SECRET}")

    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", Closed())
        logging.getLogger("theirs").error(SECRET)

    assert capsys.readouterr() == ("", "")


# --- How a secret may be spelt ----------------------------------------------------------------

BYTES = SECRET.encode()
SPELLINGS = {
    "raw": SECRET,
    "json": json.dumps(SECRET),
    "json, not of ASCII alone": json.dumps(SECRET, ensure_ascii=False),
    "json in json": json.dumps(json.dumps({"body": SECRET})),
    "repr": repr(SECRET),
    "repr of a repr": repr([repr(SECRET)]),
    "repr of bytes": repr(BYTES),
    "json of a repr": json.dumps(repr({"token": BYTES})),
    "address": quote(SECRET, safe=""),
    "path": quote(SECRET),
    "query": urlencode({"q": SECRET}),
    "form": quote_plus(SECRET),
    "address in small letters": re.sub("%..", lambda one: one[0].lower(), quote(SECRET, safe="")),
    "hex": BYTES.hex(),
    "hex in capitals": BYTES.hex().upper(),
    **{
        f"{encode.__name__} after {before} and before {after}": encode(
            b"x" * before + BYTES + b"y" * after
        )
        .decode()
        .rstrip("=")
        for before in range(4)
        for after in range(3)
        for encode in (base64.b64encode, base64.urlsafe_b64encode)
    },
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_each_spelling_is_replaced(spelling: str) -> None:
    """What holds it, a line of ours in JSON or plain, does not show it."""
    text = SPELLINGS[spelling]
    scrub = Scrubber([SecretStr(SECRET)])

    for line in (text, f"<{text}>", json.dumps({"event": text}), json.dumps([{"e": text}])):
        shown = scrub(line)
        assert REPLACEMENT in shown
        assert "kanari" not in shown
        # At its ends base64 has characters that hold something else too.
        parts = [text[at : at + 6] for at in range(len(text) - 5)] if "kanari" not in text else []
        assert not [part for part in parts if part in shown]


def test_the_longest_goes_first() -> None:
    """A secret that begins with another one leaves nothing of itself."""
    short, long = "kanari-12", "kanari-12-and-more"

    for order in ((short, long), (long, short)):
        scrub = Scrubber([SecretStr(one) for one in order])
        assert scrub(f"a {long} b {short} c") == f"a {REPLACEMENT} b {REPLACEMENT} c"


def test_lines_of_a_known_key_are_secret_each(said: Said) -> None:
    """A key file of several lines, one of which is shown."""
    scrub = Scrubber([SecretStr(PEM), SecretStr('{\n  "private": "kanari-of-many-lines"\n}\n')])

    for line in ("b3BlbnNzaC1rZXktdjEAAAAABG5vbmUkanari", '"private": "kanari-of-many-lines"'):
        assert scrub(f"at {line} it broke") == f"at {REPLACEMENT} it broke"


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_an_empty_secret_hides_nothing(empty: str) -> None:
    """It would stand everywhere."""
    assert Scrubber([SecretStr(empty)])("plain words") == "plain words"


# --- What is known by its shape ---------------------------------------------------------------

SHAPES = {
    "bearer": ("Bearer kanari-1", "Bearer "),
    "bearer in small letters": ("authorization: bearer kanari.1~+/=", "authorization: bearer "),
    "bearer in a tuple": ("(b'authorization', b'Bearer kanari-1')", "', b'Bearer "),
    "bearer in JSON": ('{"Authorization": "Bearer kanari-1"}', '"Bearer '),
    "bearer in JSON in JSON": (json.dumps('{"Authorization":"Bearer kanari-1"}'), "Bearer "),
    "bearer in an address": ("header=Bearer%20kanari-1", "Bearer%20"),
    "basic": ("Authorization: Basic Y2FuYXJ5kanari==", "Authorization: Basic "),
    "another scheme": ("'Authorization': 'kanari-1'", "'Authorization': '"),
    "JSON Web Token": (f"token {JWT} refused", "token "),
    "JSON Web Token after a break": (f"token\\n{JWT}\\n", "token\\n"),
    "private key": (f"key {PEM} end", "key "),
    "private key, escaped": (json.dumps({"key": PEM}), '{"key": "'),
    "private key, escaped twice": (json.dumps(json.dumps({"key": PEM})), "key"),
    "private key, bytes": (repr({"key": PEM.encode()}), "{'key': b'"),
    "private key, no end": (json.dumps({"key": PEM[:100], "more": 1}), '"more": 1}'),
    "private key, PKCS 8": (PEM.replace("OPENSSH ", ""), ""),
    "private key, EC": (PEM.replace("OPENSSH", "EC"), ""),
    "private key, encrypted": (PEM.replace("OPENSSH", "ENCRYPTED"), ""),
    "private key, address": (f"k={quote(PEM)}&", "k="),
    "api_key": ("GET https://x/?api_key=kanari-1&limit=3", "&limit=3"),
    "api_key, query in query": ("next=%3Fapi_key%3Dkanari-1", "api_key%3D"),
    "instance_api_key": (
        '{"new_contract": 1, "instance_api_key": "kanari-1"}',
        '"new_contract": 1',
    ),
    "instance_api_key, escaped": (r"{\"instance_api_key\":\"kanari-1\"}", "instance_api_key"),
    "instance_api_key, a named argument": ("Lease(instance_api_key='kanari-1', id=3)", "id=3"),
    "CONTAINER_API_KEY": ("export CONTAINER_API_KEY=kanari-1", "CONTAINER_API_KEY="),
    "jupyter_token": ("{'jupyter_token': 'kanari-1', 'id': 3}", "'id': 3"),
    "jupyter_token in a row": ("('jupyter_token', 'kanari-1')", "('jupyter_token', '"),
    "an address that is signed": ("https://s/log?X-Amz-Signature=kanari1&a=b", "&a=b"),
    "a token of our API": (f"got gpujob_{'kanari_-' * 6}.", "got "),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_is_replaced(shape: str) -> None:
    """Though its value is not known; what it belongs to is told, and twice changes nothing."""
    text, kept = SHAPES[shape]
    shown = Scrubber()(text)

    assert "kanari" not in shown
    assert REPLACEMENT in shown
    assert kept in shown
    assert Scrubber()(shown) == shown


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_leaves_a_line_of_json(said: Said, shape: str) -> None:
    """Whoever reads the log can still read the line."""
    text, _ = SHAPES[shape]
    structlog.get_logger("ours").info("event", text=text, nested={"deep": [text]})
    logging.getLogger("theirs").info("%s and %r", text, {"deep": text})

    assert len(said.lines()) == 2


def test_a_secret_of_kubernetes_is_known() -> None:
    """Its `data` is base64."""
    text = base64.b64encode(PEM.encode()).decode()

    assert Scrubber()(f'{{"data": {{"tls.key": "{text}"}}}}') == (
        f'{{"data": {{"tls.key": "{REPLACEMENT}"}}}}'
    )


def test_a_key_of_the_provider_is_known() -> None:
    """64 hexadecimal digits; a digest of an image is none."""
    assert HEX not in Scrubber()(f"the key {HEX} is not valid")
    assert HEX not in Scrubber()(json.dumps(f"\n{HEX}\n"))
    assert HEX in Scrubber()(f"image@sha256:{HEX}")


@pytest.mark.parametrize(
    "text",
    [
        "the bearer token of the driver's pod is needed",
        "VAST_API_KEY must hold the account's API key, without white space",
        "authorization.k8s.io/v1 is not served",
        "RBAC does not allow this account to get /metrics",
        "gpujob_leased_usd_per_hour 1.5",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        base64.b64encode(b"-----BEGIN CERTIFICATE-----\nMIIB").decode(),
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    """Whoever looks for a fault needs it."""
    assert Scrubber([SecretStr(SECRET)])(text) == text


@pytest.mark.parametrize("piece", ["eyJ", "http://x", "Bearer ", "-----BEGIN ", 'api_key\\"', "a."])
def test_no_text_takes_long(piece: str) -> None:
    """Half a megabyte of what looks like the beginning of a secret: none of it may square."""
    assert Scrubber([SecretStr(SECRET)]).foreign(piece * (500_000 // len(piece)))


def test_addresses_in_others_words_lose_their_queries() -> None:
    """What is asked may be anything; where, is told."""
    shown = Scrubber().foreign("see https://s.example/log?sig=kanari#a and http://x/y")

    assert shown == f"see https://s.example/log?{REPLACEMENT} and http://x/y"


# --- Levels -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "heard"),
    [
        ("DEBUG", {"debug", "info", "warning"}),
        ("INFO", {"warning"}),
        ("WARNING", {"warning"}),
        ("ERROR", set()),
    ],
)
def test_others_details_are_for_debugging(
    given_back: None, capsys: pytest.CaptureFixture[str], level: str, heard: set[str]
) -> None:
    """Others than ours follow the level only there; the log of requests stays off."""
    configure_logging(level, [])
    for name in ("uvicorn.error", "asyncssh", "kopf", "uvicorn.access"):
        for word in ("debug", "info", "warning"):
            getattr(logging.getLogger(name), word)(word)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    for name in ("uvicorn.error", "asyncssh", "kopf"):
        assert {line["level"] for line in lines if line["logger"] == name} == heard
    assert "uvicorn.access" not in {line["logger"] for line in lines}


# --- What passes by the loggers ---------------------------------------------------------------


async def test_asyncio_tells_the_sink(said: Said) -> None:
    """An exception that no task's owner asked for."""

    async def broken() -> None:
        raise ValueError(SECRET)

    task = asyncio.create_task(broken(), name=f"of {SECRET}")
    await asyncio.wait([task])
    del task
    gc.collect()
    asyncio.get_running_loop().call_exception_handler({"message": SECRET, "key": [SECRET]})
    lines = [line for line in said.lines() if line["level"] == "error"]

    assert [line["logger"] for line in lines] == ["asyncio", "asyncio"]
    assert "ValueError" in lines[0]["exception"]


ENDS = {
    "main thread": "raise ValueError(SECRET)",
    "chained": "try:\n    raise KeyError(SECRET)\nexcept KeyError:\n    raise OSError(5, SECRET)",
    "group": "raise ExceptionGroup(SECRET, [ValueError(SECRET), ValueError(SECRET)])",
    "asyncio": "async def f():\n    raise ValueError(SECRET)\nasyncio.run(f())",
    "task": (
        "async def g():\n    raise ValueError(SECRET)\n"
        "async def f():\n    asyncio.create_task(g())\n    await asyncio.sleep(0)\n"
        "asyncio.run(f())"
    ),
    "another thread": (
        "def f():\n    raise ValueError(SECRET)\n"
        "t = threading.Thread(target=f, name=SECRET)\nt.start()\nt.join()"
    ),
    "what is torn down": (
        "class A:\n    def __del__(self):\n        raise ValueError(SECRET)\n"
        "    def __repr__(self):\n        return SECRET\nA()"
    ),
    "what is torn down and odd": (
        "class A:\n    def __del__(self):\n        raise ValueError(SECRET)\n"
        "    def __repr__(self):\n        raise ValueError(SECRET)\nA()"
    ),
    "at the exit": "def f():\n    raise ValueError(SECRET)\natexit.register(f)",
    "warning": "warnings.warn(SECRET, UserWarning)",
    "a record": "logging.getLogger('x').error('%s %s', SECRET)",
    "a deep one": (
        "class A:\n    def __repr__(self):\n        return repr(self)\n"
        "logging.getLogger('x').error('ValueError %s', A())"
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_process_shows_no_secret_at_its_end(end: str) -> None:
    """A real one, to its last breath; what went wrong is told in lines of JSON."""
    modules = "asyncio, atexit, faulthandler, logging, threading, sys, warnings"
    program = f"import {modules}\n" + textwrap.dedent(
        """
        from pydantic import SecretStr
        from gpujob.adapters.log import configure_logging
        SECRET = sys.stdin.read()
        configure_logging("INFO", [SecretStr(SECRET)])
        assert not faulthandler.is_enabled()
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program + ENDS[end]], input=SECRET, capture_output=True, text=True
    )

    assert done.returncode == (1 if end in ("main thread", "chained", "group", "asyncio") else 0)
    assert "kanari" not in done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert len(lines) == 1
    assert "Error" in json.dumps(lines) or "Warning" in json.dumps(lines)
    assert REPLACEMENT in done.stderr or end == "a deep one"
