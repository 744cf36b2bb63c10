"""The HTTP API as a process, over TLS, with the rights of its chart; and somebody who asks it."""

import base64
import http.client
import json
import re
import secrets
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretBytes
from tests.integration.parts import (
    AUDIENCE,
    AdmissionServer,
    Kubectl,
    Object,
    authorities,
    eventually,
    operators_config,
)

from gpujob.adapters import pki
from gpujob.core.api_tokens import digest_of, token_of
from gpujob.core.mark_keys import MarkKey, data_of
from localcluster.control_plane import ControlPlane, free_port

INTERNALS = re.compile(
    r"Traceback|File \"|\.py\b|line \d+, in|fastapi|starlette|pydantic|uvicorn|aiohttp|asyncio|"
    r"kubernetes\b|object at 0x|127\.0\.0\.1|\d+\.\d+\.\d+\.\d+|localhost|site-packages|/apis/|svc",
    re.IGNORECASE,
)
"""What no answer may show."""

SPEC = {
    "image": "python:3.11",
    "command": ["python3"],
    "activeDeadlineSeconds": 60,
    "cost": {"ceiling": "1.00"},
}
NAMES = ("writer", "reader", "old", "b")
TOKENS = {name: token_of(secrets.token_bytes(32)) for name in NAMES}
BOOTSTRAP = token_of(secrets.token_bytes(32))
JOBS = "/v1/namespaces/{}/jobs"


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        """The document."""
        return json.loads(self.raw)


@dataclass
class Api:
    """The API, and somebody who calls it."""

    port: int
    authority: str
    namespace: str
    kubectl: Kubectl
    server: AdmissionServer
    token: str = field(default=TOKENS["writer"], repr=False)

    def connect(self) -> http.client.HTTPSConnection:
        """Opens a connection that believes the server's certificate alone."""
        trusted = ssl.create_default_context(cadata=self.authority)
        return http.client.HTTPSConnection("localhost", self.port, context=trusted, timeout=30)

    def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        **headers: str,
    ) -> Answer:
        """Asks; a body that is no bytes is sent as JSON; `{}` in the path is the namespace.

        If it has asked too often it waits as it is told, as clients do: machines differ in speed.
        """
        sent = {name.replace("_", "-"): text for name, text in headers.items()}
        shown = self.token if token is None else token
        if shown:
            sent.setdefault("authorization", f"Bearer {shown}")
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if raw is not None:
            sent.setdefault("content-type", "application/json")
        answer = self._ask(method, path, raw, sent)
        while answer.status == 429 and b"this token has sent too many requests" in answer.raw:
            time.sleep(int(answer.headers["retry-after"]))
            answer = self._ask(method, path, raw, sent)
        return answer

    def _ask(self, method: str, path: str, raw: bytes | None, headers: dict[str, str]) -> Answer:
        with closing(self.connect()) as line:
            line.request(method, path.replace("{}", self.namespace), raw, headers)
            answer = line.getresponse()
            named = {name.lower(): text for name, text in answer.getheaders()}
            # A stream that begins is enough.
            endless = named.get("content-type", "").startswith("text/event-stream")
            return Answer(answer.status, named, b"" if endless else answer.read())

    def answers(self) -> bool:
        """Whether it is there."""
        try:
            return self("GET", "/openapi.json", token="").status == 401
        except OSError:
            return False

    def create(self, name: str, **headers: str) -> Answer:
        """Creates a job."""
        return self("POST", JOBS, {"metadata": {"name": name}, "spec": SPEC}, **headers)


def record(token: str, access: str = "write", days: float = 1, *where: str) -> str:
    """A token's entry in the Secret."""
    expires = datetime.now(UTC) + timedelta(days=days)
    held = {
        "sha256": digest_of(token),
        "namespaces": where or ["*"],
        "access": access,
        "expires": expires.isoformat(),
    }
    return base64.b64encode(json.dumps(held).encode()).decode()


def token_file(kubectl: Kubectl, account: str, folder: Path) -> Path:
    """A token of an account in the release's namespace, in a file as the kubelet would keep it."""
    path = folder / f"{account}.token"
    path.write_text(kubectl.client.token(account, "gpujob-system", audiences=[AUDIENCE]))
    return path


def authorities_file(kubectl: Kubectl, folder: Path) -> Path:
    """The controller's authorities, in a file as the kubelet would keep it."""
    path = folder / "authorities.pem"
    path.write_text(authorities(kubectl))
    return path


def secret(name: str, data: dict[str, str]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "gpujob-system"},
        "data": data,
    }


@contextmanager
def api_server(
    plane: ControlPlane, folder: Path, entries: Mapping[str, str], **settings: str
) -> Iterator[Api]:
    """The server with the API, a certificate, and tokens by their entries in the Secret.

    Unless a setting says otherwise, nobody is where it asks the controller.
    """
    kubectl = Kubectl(plane, plane.kubeconfig)
    names = frozenset({"localhost"})
    certificate = pki.make(names, now=datetime.now(UTC), life_seconds=86400)
    texts = {"tls.crt": certificate.chain, "tls.key": certificate.key.get_secret_value()}
    encoded = {name: base64.b64encode(text.encode()).decode() for name, text in texts.items()}
    kubectl.client.apply(secret("gpujob-server-tls", encoded))
    kubectl.client.apply(secret("gpujob-api-tokens", dict(entries)))
    mark_key = MarkKey(datetime.now(UTC), SecretBytes(secrets.token_bytes(32)))
    kubectl.client.apply(secret("gpujob-api-marks", data_of((mark_key,))))
    port = free_port()
    config = operators_config(plane, folder / "server.kubeconfig", account="gpujob-server")
    told = {
        "GPUJOB_API_PORT": str(port),
        "GPUJOB_LOOK_SECONDS": "0.3",
        "GPUJOB_TRANSPORT_URL": f"https://127.0.0.1:{free_port()}",
    }
    server = AdmissionServer(folder, config, **told | settings)
    server.start()
    api = Api(port, certificate.authority, "", kubectl, server)
    try:
        eventually("the API knows its tokens", lambda: f'"tokens": {len(entries)}' in server.log)
        eventually("the API has the keys of its marks", lambda: "mark_keys_read" in server.log)
        eventually("the API answers", api.answers)
        yield api
    finally:
        server.stop()
        print(f"--- server's log\n{server.log[-5000:]}")
        for name in ("gpujob-server-tls", "gpujob-api-tokens", "gpujob-api-marks"):
            # A module's server may end after that of one of its tests, which had the same Secrets.
            kubectl("delete", "secret", name, "-n", "gpujob-system", "--ignore-not-found")
