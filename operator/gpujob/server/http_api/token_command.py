"""`python -m gpujob token`: makes a token for the HTTP API, and a manifest with its digest.

The command needs no rights in the cluster; an administrator applies the manifest.
"""

import argparse
import base64
import json
import os
import secrets
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from gpujob.core.api_tokens import (
    NAME,
    TOKEN_BYTES,
    TokenRecord,
    digest_of,
    token_of,
    tokens_secret,
)

DAYS_MAX = 3650


def main(arguments: list[str]) -> int:
    """Prints the token to standard error and the manifest to standard output."""
    parser = argparse.ArgumentParser(
        prog="gpujob token", description="Makes a token for the HTTP API."
    )
    parser.add_argument("name", help="name of the token, such as that of its holder")
    parser.add_argument(
        "--bootstrap",
        action="store_true",
        help="make a token for api.bootstrapSecret; it may do everything and does not expire",
    )
    parser.add_argument(
        "--namespaces", help="where the token is valid: comma-separated names, or '*'"
    )
    parser.add_argument("--access", choices=("read", "write"), help="write includes read")
    parser.add_argument(
        "--days", type=int, default=90, help="days until the token expires (default: 90)"
    )
    name = os.environ.get("GPUJOB_NAME", "gpujob")
    parser.add_argument(
        "--release", default=name, help=f"name of the controller's Deployment (default: {name})"
    )
    namespace = os.environ.get("GPUJOB_NAMESPACE", "gpujob-system")
    parser.add_argument(
        "--release-namespace",
        default=namespace,
        help=f"namespace of the release (default: {namespace})",
    )
    given = parser.parse_args(arguments)
    if not NAME.fullmatch(given.name):
        print("gpujob token: the name may contain only a-z, 0-9, '-' and '.'", file=sys.stderr)
        return 2
    if not 1 <= given.days <= DAYS_MAX:
        print(f"gpujob token: --days must be from 1 to {DAYS_MAX}", file=sys.stderr)
        return 2
    token = token_of(secrets.token_bytes(TOKEN_BYTES))
    if given.bootstrap:
        secret = _secret(given.name, given.release_namespace, "token", token.encode())
        print(json.dumps(secret, indent=2))
        print(
            "The manifest on standard output contains the token itself, so keep it nowhere else. "
            f"Apply it and set api.bootstrapSecret={given.name}. To revoke the token, delete the "
            "Secret and restart the server.",
            file=sys.stderr,
        )
        return 0
    if not given.namespaces or not given.access:
        print("gpujob token: --namespaces and --access must be given", file=sys.stderr)
        return 2
    expires = (datetime.now(UTC) + timedelta(days=given.days)).replace(microsecond=0)
    try:
        record = TokenRecord(
            sha256=digest_of(token),
            namespaces=tuple(given.namespaces.split(",")),
            access=given.access,
            expires=expires,
        )
    except ValidationError:
        print("gpujob token: --namespaces must be comma-separated names, or '*'", file=sys.stderr)
        return 2
    raw = json.dumps(record.wire()).encode()
    manifest = _secret(tokens_secret(given.release), given.release_namespace, given.name, raw)
    print(json.dumps(manifest, indent=2))
    print(
        f"The token, which is shown only once and is valid until {expires:%Y-%m-%d}:\n\n"
        f"  {token}\n\n"
        "It works once the manifest on standard output is applied:\n"
        f"  kubectl apply --server-side --field-manager=token-{given.name} -f FILE\n"
        "To revoke it, remove its key from the Secret:\n"
        f"  kubectl patch secret {tokens_secret(given.release)} -n {given.release_namespace} "
        f'--type=json -p \'[{{"op": "remove", "path": "/data/{given.name}"}}]\'',
        file=sys.stderr,
    )
    return 0


def _secret(name: str, namespace: str, key: str, value: bytes) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "data": {key: base64.b64encode(value).decode()},
    }
