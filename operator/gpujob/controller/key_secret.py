"""The Secret that holds the account's API key: whether it was replaced since this process began.

The key comes in an environment variable, which only a new start of the container reads. So only the
version of the Secret is asked for, and never what it holds.
"""

import structlog

from gpujob.adapters.errors import ClusterError
from gpujob.adapters.kube import KubeClient
from gpujob.controller.settings import Settings

log = structlog.get_logger("gpujob.key_secret")


class KeySecret:
    """The version with which this process began."""

    def __init__(self, kube: KubeClient, settings: Settings) -> None:
        self._kube, self._namespace, self._name = kube, settings.namespace, settings.key_secret
        self._began_with: str | None = None

    async def is_replaced(self) -> bool | None:
        """Whether another version is stored now; None = not known, as at the first question.

        False does not prove that this process has the key that is stored: the first question may
        have come too late, and the kubelet may have started it with an older one.
        """
        if not self._name:
            return None
        try:
            version = await self._kube.version("Secret", self._namespace, self._name)
        except ClusterError as error:
            log.warning("key_secret_unseen", secret=self._name, problem=str(error))
            return None
        if self._began_with is None:
            self._began_with = version
            return None
        return version != self._began_with
