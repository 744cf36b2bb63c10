"""What the provider's words say of an image, and what is remembered of it."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import NOW, at

from gpujob.core.market.images import (
    IMAGES_REMEMBERED_FOR,
    TRIALS_KEPT,
    Found,
    ImageMemory,
    ImageTrial,
    PullFailure,
    missing_server,
    pull_failure,
    remembered_image,
)

IMAGE = "ghcr.io/acme/trainer:v7"
DENIED = (
    "Error response from daemon: pull access denied for acme/trainer, repository does not exist or "
    "may require 'docker login': denied: requested access to the resource is denied"
)
LIMITED = (
    "toomanyrequests: You have reached your unauthenticated pull rate limit. You may increase the "
    "limit by authenticating and upgrading: https://www.docker.com/increase-rate-limit"
)

PERMANENT = [
    "manifest unknown",
    "Error response from daemon: manifest for ghcr.io/acme/trainer:v7 not found",
    f"Error response from daemon: manifest for {IMAGE} not found: manifest unknown: x",
    "Error response from daemon: manifest for X not found",
    DENIED,
    "repository does not exist",
    "repository acme/trainer not found: does not exist or no pull access",
    "unauthorized: authentication required",
    'Error response from daemon: Head "https://ghcr.io/v2/acme/trainer/manifests/v7": unauthorized',
    'Get "https://registry-1.docker.io/v2/": unauthorized: incorrect username or password',
    "Error response from daemon: Head https://r/v2/: no basic auth credentials",
    "no matching manifest for linux/amd64 in the manifest list entries",
    "image with reference x was found but does not match the specified platform: wanted linux/x",
    'failed to resolve reference "docker.io/acme/x:y": docker.io/acme/x:y: not found',
    "name unknown: repository name not known to registry",
    "denied: permission_denied: read_package",
    "invalid reference format: repository name must be lowercase",
    "MANIFEST UNKNOWN",
    'Error response from daemon: Head "https://ghcr.io/v2/acme/trainer/manifests/v7": denied: '
    "denied",
    "Error response from daemon: denied",
    "Error response from daemon: error from registry: denied\ndenied",
    'Head "https://ghcr.io/v2/acme/trainer/manifests/v7": denied.',
    f"Error response from daemon: pull of {IMAGE}: denied: Your authorization token has expired.",
    'Get "https://r/v2/": http: server gave HTTP response to HTTPS client',
    # Docker, where the provider's launcher cannot be started in the image.
    'OCI runtime create failed: exec: "bash": executable file not found in $PATH: unknown',
    r'process caused "exec: \"/bin/sh\": stat /bin/sh: no such file or directory": unknown',
    'unable to start container process: exec: "/bin/bash": permission denied: unknown',
    "standard_init_linux.go:228: exec user process caused: exec format error",
]
PASSING = [
    LIMITED,
    "Error response from daemon: toomanyrequests: retry-after: 1.2ms, allowed: 44000/minute",
    "received unexpected HTTP status: 503 Service Unavailable",
    'Get "https://registry-1.docker.io/v2/": net/http: TLS handshake timeout',
    "net/http: request canceled (Client.Timeout exceeded while awaiting headers)",
    "dial tcp: lookup registry-1.docker.io on 127.0.0.53:53: no such host",
    "dial tcp 1.2.3.4:443: connect: connection refused",
    "read tcp: connection reset by peer",
    "unexpected EOF",
    "context deadline exceeded",
    # One error wraps another: a proxy that is down asks nobody for credentials.
    "unauthorized: proxy answered 502 Bad Gateway",
]
SILENT = [
    "",
    "5f22362f8660: Pull complete",
    "v7: Pulling from acme/trainer",
    "Status: Downloaded newer image for ghcr.io/acme/trainer:v7",
    "success, running ghcr.io_acme_trainer_v7/ssh",
    "a1: Downloading [====>  ] 502MB/1.2GB",
    "Error response from daemon: OCI runtime create failed: runc create failed",
    "exec: bash: executable file not found in $PATH",
    "container not found",
    "mkdir /var/lib/docker/x: permission denied",
    # A name that is spelled wrong is on no host: two of them tell.
    "dial tcp: lookup ghrc.io on 127.0.0.53:53: no such host",
    'exec: "nvidia-smi": executable file not found in $PATH',
    "OCI runtime create failed: nvidia-container-cli: initialization error: load library failed",
]

NO_SERVER = [
    ("sh: apt-get: not found", "sh: apt-get: not found"),
    (
        "/.launch: line 6: apt-get: command not found",
        "/.launch: line 6: apt-get: command not found",
    ),
    ("bash: /usr/sbin/sshd: No such file or directory", None),
    ("Reading package lists...\nE: Unable to locate package openssh-server\nbye", "E: Unable to l"),
    ("E: Package 'openssh-server' has no installation candidate", None),
    ("Error: Unable to find a match: openssh-server", None),
    (
        "ERROR: unable to select packages:\n  openssh-server (no such package):",
        "openssh-server (no",
    ),
    ("sshd: /run/sshd must be owned by root and not group or world-writable.", None),
    ("Missing privilege separation directory: /run/sshd", None),
    ("exec /bin/sh: no such file or directory", None),
    ("exec /bin/bash: exec format error", None),
]
OF_THE_HOST = [
    "",
    "gpujob: hello\nSetting up openssh-server (1:9.2p1-2) ...",
    "Temporary failure resolving 'deb.example.org'\nE: Unable to locate package openssh-server",
    "Could not connect to deb.example.org:80\nE: Unable to locate package openssh-server",
    "E: You don't have enough free space: No space left on device\nsshd: not found",
    "WARNING: fetching https://deb.example.org: temporary error (try again later)\n"
    "ERROR: unable to select packages:\n  openssh-server (no such package):",
    "E: Could not get lock /var/lib/dpkg/lock-frontend\nsshd: not found",
    "curl: not found",
    "the workload wants sshd, which was not found",
]


@pytest.mark.parametrize(("log", "line"), NO_SERVER)
def test_why_an_image_has_no_ssh_server(log: str, line: str | None) -> None:
    """The words of shells, package managers and OpenSSH."""
    found = missing_server(f"The image has no SSH server; installing one.\n{log}\n")

    assert found is not None
    assert found.startswith(line or log)


@pytest.mark.parametrize("log", OF_THE_HOST)
def test_what_is_not_the_image_s_fault(log: str) -> None:
    """Another host may have a network, or room on its disk."""
    assert missing_server(log) is None


@pytest.mark.parametrize("words", PERMANENT)
def test_what_no_machine_will_ever_pull(words: str) -> None:
    """Registry and daemon say it in several ways."""
    assert pull_failure(words, IMAGE) is PullFailure.PERMANENT


@pytest.mark.parametrize("words", PASSING)
def test_what_passes_is_not_permanent(words: str) -> None:
    """Another hour, or another host, may have it."""
    assert pull_failure(words, IMAGE) is PullFailure.PASSING


@pytest.mark.parametrize("words", SILENT)
def test_what_says_nothing_of_a_pull(words: str) -> None:
    """What is not understood ends no job."""
    assert pull_failure(words, IMAGE) is None


def test_a_full_disk_is_the_host_s() -> None:
    """Whatever else is said."""
    words = "failed to register layer: write /x: no space left on device: unauthorized"
    assert pull_failure(words, IMAGE) is PullFailure.DISK_FULL


EVIL_NAMES = [
    "acme/unauthorized:1",
    "acme/unauthorized",
    "ghcr.io/acme/unauthorized:v1",
    "ghcr.io/manifest-unknown/x:v1",
    "acme/x:unauthorized",
    "acme/x:toomanyrequests",
    "localhost:5000/toomanyrequests",
    "localhost:5000/acme/timeout:1",
    "acme/timeout@sha256:" + "a" * 64,
    "unauthorized",
    "a",
    "no-such-host/x",
    "ACME/Unauthorized:V1",
]


@pytest.mark.parametrize("image", EVIL_NAMES)
def test_the_name_of_an_image_says_nothing(image: str) -> None:
    """Its owner chooses it, and Docker repeats it."""
    path = image.partition("@")[0]
    tag = path.rpartition(":")[2] if ":" in path.rpartition("/")[2] else "latest"
    bare = path.removesuffix(f":{tag}")
    short = bare.partition("/")[2] if bare.partition("/")[0].startswith(("gh", "local")) else bare
    shown = image.replace("/", "_").replace(":", "_")
    for words in (
        f"pulling {image}",
        f"{tag}: Pulling from {short}",
        f"success, running {shown}/ssh",
        f'Get "https://registry/v2/{short}/manifests/{tag}": in progress',
    ):
        assert pull_failure(words, image) is None, words
    assert pull_failure(f"manifest for {image} not found: manifest unknown", image) in (
        PullFailure.PERMANENT,
    )
    assert pull_failure(f"manifest for {image} not found", image) is PullFailure.PERMANENT


@given(st.text(max_size=300), st.text(min_size=1, max_size=80))
def test_it_reads_any_words(words: str, image: str) -> None:
    """They come from a stranger's machine."""
    assert pull_failure(words, image) in (None, *PullFailure)


def a_trial(found: Found, ago: float = 60, **changes: object) -> ImageTrial:
    """What an attempt in the namespace `team` showed of IMAGE."""
    told = {"namespace": "team", "image": IMAGE, "node_uid": f"n-{ago}", "host_id": 10}
    return ImageTrial(**(told | {"at": at(-ago), "found": found} | changes))  # type: ignore[arg-type]


def after(*trials: ImageTrial) -> ImageMemory:
    """A memory of these trials, in this order."""
    memory = ImageMemory()
    for one in trials:
        memory = remembered_image(memory, one)
    return memory


def test_an_image_is_remembered_for_its_namespace_and_for_an_hour() -> None:
    """Another team may be allowed what this one is not, and what is missing may be pushed."""
    memory = after(a_trial(Found.UNUSABLE))

    assert memory.unusable_since("team", IMAGE, NOW) == at(-60)
    assert memory.unusable_since("other", IMAGE, NOW) is None
    assert memory.unusable_since("team", f"{IMAGE}1", NOW) is None
    assert memory.unusable_since("team", IMAGE, at(-60) + IMAGES_REMEMBERED_FOR) is None


def test_an_image_that_works_again_is_good() -> None:
    """The latest of both counts."""
    pushed = after(a_trial(Found.UNUSABLE, 60), a_trial(Found.WORKS, 30))
    removed = after(a_trial(Found.WORKS, 60), a_trial(Found.UNUSABLE, 30))

    assert pushed.unusable_since("team", IMAGE, NOW) is None
    assert removed.unusable_since("team", IMAGE, NOW) is not None


def test_hosts_on_which_it_did_not_come_up() -> None:
    """An unknown host is none."""
    memory = after(
        a_trial(Found.UNBOOTED, 50),
        a_trial(Found.UNBOOTED, 40, host_id=0),
        a_trial(Found.UNUSABLE, 30, host_id=20),
        a_trial(Found.WORKS, 20, host_id=30),
    )

    assert memory.failed_hosts("team", IMAGE, NOW) == {10, 20}
    assert memory.failed_hosts("other", IMAGE, NOW) == frozenset()


def test_what_is_known_needs_no_write() -> None:
    """Told twice, or once more that it works: nothing changes."""
    once = after(a_trial(Found.WORKS, 60))

    assert after(a_trial(Found.WORKS, 60), a_trial(Found.WORKS, 60)) == once
    assert after(a_trial(Found.WORKS, 60), a_trial(Found.WORKS, 30)) == once
    assert len(after(a_trial(Found.WORKS, 2400), a_trial(Found.WORKS, 30)).trials) == 2


def test_the_memory_is_bounded_and_forgets() -> None:
    """By number, and by age."""
    many = [
        a_trial(Found.UNBOOTED, 1000 - number, image=f"i-{number}")
        for number in range(TRIALS_KEPT + 50)
    ]

    assert len(after(*many).trials) == TRIALS_KEPT
    later = a_trial(Found.UNBOOTED, 0, at=NOW + timedelta(hours=3))
    assert after(*many, later).trials == (later,)
