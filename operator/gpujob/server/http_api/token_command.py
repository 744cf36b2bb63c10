"""`python -m gpujob token`: makes a token for the HTTP API, and the manifest of its digest.

It needs no right in the cluster: an administrator applies what it prints.
"""

import argparse
import base64
import json
import secrets
import sys
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError

from gpujob.core.api_tokens import (
    NAME,
    PREFIX,
    TOKEN_BYTES,
    TokenRecord,
    digest_of,
    tokens_secret,
)

DAYS_MAX = 3650


def main(arguments: list[str]) -> int:
    """Prints the token on standard error and the manifest on standard output."""
    parser = argparse.ArgumentParser(
        prog="gpujob token", description="Makes a token for the HTTP API."
    )
    parser.add_argument("name", help="what the token is called: whoever or whatever holds it")
    parser.add_argument(
        "--namespaces", required=True, help="where it may be used: names with commas, or '*'"
    )
    parser.add_argument("--access", required=True, choices=("read", "write"))
    parser.add_argument("--days", type=int, default=90, help="until it expires (default: 90)")
    parser.add_argument("--release", default="gpujob", help="of the chart (default: gpujob)")
    parser.add_argument(
        "--release-namespace", default="gpujob-system", help="(default: gpujob-system)"
    )
    given = parser.parse_args(arguments)
    if not NAME.fullmatch(given.name):
        print("gpujob token: a name has a-z, 0-9, - and .", file=sys.stderr)
        return 2
    if not 1 <= given.days <= DAYS_MAX:
        print(f"gpujob token: --days must be from 1 to {DAYS_MAX}", file=sys.stderr)
        return 2
    token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    expires = (datetime.now(UTC) + timedelta(days=given.days)).replace(microsecond=0)
    try:
        record = TokenRecord(
            sha256=digest_of(token),
            namespaces=tuple(given.namespaces.split(",")),
            access=given.access,
            expires=expires,
        )
    except ValidationError:
        print("gpujob token: --namespaces must be names with commas, or '*'", file=sys.stderr)
        return 2
    raw = json.dumps(record.wire()).encode()
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": tokens_secret(given.release),
            "namespace": given.release_namespace,
        },
        "data": {given.name: base64.b64encode(raw).decode()},
    }
    print(json.dumps(manifest, indent=2))
    print(
        f"The token, which is shown this once and good until {expires:%Y-%m-%d}:\n\n  {token}\n\n"
        "It is known once what was printed on standard output is applied:\n"
        f"  kubectl apply --server-side --field-manager=token-{given.name} -f FILE\n"
        "To take it back, remove its key from the Secret:\n"
        f"  kubectl patch secret {tokens_secret(given.release)} -n {given.release_namespace} "
        f'--type=json -p \'[{{"op": "remove", "path": "/data/{given.name}"}}]\'',
        file=sys.stderr,
    )
    return 0
