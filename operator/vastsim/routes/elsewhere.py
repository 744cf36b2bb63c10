"""What the provider has besides jobs: volumes, templates, teams, serverless, hosts.

The simulated account has none of it. Lists are empty, and whatever would make or change something
is refused as the provider refuses an account that has no right to it.
"""

import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from vastsim.market import RefusedError
from vastsim.requests import account_of, body_of
from vastsim.state import State

EMPTY: dict[str, Any] = {
    "/api/v0/audit_logs": [],
    "/api/v0/auth/apikeys": {"apikeys": []},
    "/api/v0/autojobs": {"success": True, "results": []},
    "/api/v0/benchmarks": {"benchmarks": [], "benchmarks_found": 0, "next_token": None},
    "/api/v0/clusters": {"clusters": {}},
    "/api/v0/commands/schedule_job": [],
    "/api/v0/deployments": {"success": True, "deployments": []},
    "/api/v0/endptjobs": {"success": True, "results": []},
    "/api/v0/instance_backups": {"success": True, "backups": []},
    "/api/v0/invoices": [],
    "/api/v0/machines": {"machines": []},
    "/api/v0/machines/maintenances": [],
    "/api/v0/metrics/gpu/current": {"success": True, "results": []},
    "/api/v0/metrics/gpu/history": {"success": True, "results": []},
    "/api/v0/metrics/gpu/locations": {"success": True, "results": []},
    "/api/v0/network_disk": {"network_disks": []},
    "/api/v0/network_volumes/search": {"offers": []},
    "/api/v0/overlay": [],
    "/api/v0/secrets": {"success": True, "secrets": {}},
    "/api/v0/subaccounts": {"users": []},
    "/api/v0/team/members": [],
    "/api/v0/team/roles-full": [],
    "/api/v0/template": {"success": True, "templates_found": 0, "templates": []},
    "/api/v0/tfa/status": {"tfa_enabled": False, "methods": []},
    "/api/v0/users/cloud_integrations": [],
    "/api/v0/users/me/ipaddrs": {"results": []},
    "/api/v0/users/me/machine-earnings": {"summary": {}, "per_machine": [], "per_day": []},
    "/api/v0/volumes": {"volumes": []},
    "/api/v0/volumes/search": {"offers": []},
}
"""The answers to reads, by path."""

SEARCHES = ("/api/v0/network_volumes/search", "/api/v0/volumes/search")
"""Reads that are POST requests."""

KNOWN = re.compile(
    r"""/api/v0/(
        auth/apikeys (/\d+)?
      | autojobs (/\d+)? | endptjobs (/\d+)? | workergroups (/\d+)?
      | deployments | deployment/\d+ (/versions|/start|/stop|/download_url)?
      | cluster (/remove_machine)? | overlay
      | commands/(reset_apikey | transfer_credit | copy_direct | rclone | rsync)
      | commands/schedule_job (/\d+)?
      | instance_backups/\d+/download
      | machines/(create_asks | create_bids | defrag_offers)
      | machines/\d+ (/asks|/defjob|/reports|/force_delete|/cancel_maint|/cleanup|/dnotify|/minbid)?
      | network_disk | network_volumes (/unlist)? | volumes (/copy|/unlist)?
      | secrets | template | users
      | team (/invite|/members/\d+|/roles|/roles/[^/]+)?
      | tfa (/authorize-new-method|/confirm-new|/email|/sms|/sms/resend|/totp-setup)?
      | tfa/(regen-backup-codes|update)
    ) | /api/v1/template
      | /get_endpoint_logs | /get_autogroup_logs | /get_endpoint_workers | /update_workers""",
    re.VERBOSE,
)
"""The other paths that the official client knows."""


def register(app: FastAPI, state: State) -> None:
    """Registers the routes; they must be the last, because they fit every path."""

    @app.api_route("/{path:path}", methods=["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"])
    async def elsewhere(request: Request) -> JSONResponse:
        path = request.url.path.rstrip("/")
        is_read = request.method == "GET" or (request.method == "POST" and path in SEARCHES)
        if not (path in EMPTY or KNOWN.fullmatch(path)):
            message = f"There is no {request.method} {path[:200]}."
            raise RefusedError(404, "not_found", message)
        account_of(request, state)
        await body_of(request)
        if is_read and path in EMPTY:
            return JSONResponse(EMPTY[path])
        message = f"This account has no right to {request.method} {path[:200]}."
        raise RefusedError(403, "not_authorized", message)
