"""The server's client of the leading controller."""

from pathlib import Path

import aiohttp
from pydantic import ValidationError

from gpujob.adapters.body import whole_body
from gpujob.adapters.errors import ControllerBusy, ControllerUnavailable
from gpujob.adapters.transport import UntrustedAuthorities, trust_in
from gpujob.api.estimate import (
    ESTIMATE_BYTES_MAX,
    ESTIMATE_PATH,
    EstimateQuestion,
    JobEstimate,
)
from gpujob.api.gpujob import GpuJobSpec

ANSWER_SECONDS = 40.0
"""Longer than the controller's own search at the provider takes."""


class ControllerClient:
    """Asks the leading controller; the kubelet renews the token and the authorities in files."""

    def __init__(self, url: str, *, token_file: Path, authorities_file: Path) -> None:
        self._url = url.rstrip("/")
        self._token_file, self._authorities_file = token_file, authorities_file

    async def estimate(self, namespace: str, spec: GpuJobSpec) -> JobEstimate:
        """Returns what a job in a namespace would cost.

        Raises ControllerUnavailable or ControllerBusy.
        """
        question = EstimateQuestion(version=1, namespace=namespace, spec=spec)
        try:
            token = self._token_file.read_text().strip()
            trusting = trust_in(self._authorities_file.read_text())
            async with (
                aiohttp.ClientSession(
                    timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS), trust_env=False
                ) as session,
                session.post(
                    self._url + ESTIMATE_PATH,
                    json=question.wire(),
                    headers={"Authorization": f"Bearer {token}"},
                    allow_redirects=False,
                    ssl=trusting,
                ) as response,
            ):
                raw = await whole_body(response, ESTIMATE_BYTES_MAX)
                if response.status == 429:
                    raise ControllerBusy(
                        "the controller answers too many questions about costs at the moment"
                    )
                if response.status != 200 or raw is None:
                    told = (raw or b"")[:512].decode(errors="replace")
                    raise ControllerUnavailable(
                        f"the controller answered {response.status}: {told}"
                    )
                return JobEstimate.model_validate_json(raw)
        except (aiohttp.ClientError, TimeoutError, OSError, UntrustedAuthorities) as error:
            raise ControllerUnavailable(f"the controller did not answer: {error!r}") from error
        except ValidationError as error:
            raise ControllerUnavailable(
                f"the controller's answer has another form than expected: {error}"
            ) from error
