"""What is known about images: why one could not be pulled, and which booted where.

Unlike a machine's record this is kept for each namespace: an image that is refused to one team may
be open to another. It is evidence about whose fault an end is, and a warning; no job is refused for
it, since an image that is missing now may be pushed a minute later.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

IMAGES_REMEMBERED_FOR = timedelta(hours=1)
TRIALS_KEPT = 200


class PullFailure(StrEnum):
    """Why an image was not pulled, by the provider's words."""

    PERMANENT = "permanent"
    """The registry does not have it, or does not give it to us, or nothing of ours can start in it:
    it never will on any machine."""
    DISK_FULL = "disk full"
    PASSING = "passing"
    """A rate limit, a time-out, a registry that is down."""


# The sources of these words are in vastsim/FACTS.md, Failed pulls. What passes is looked for first:
# a rate limit of Docker Hub advises to authenticate, and a proxy may wrap one error in another.
_PASSING = re.compile(
    r"toomanyrequests|too many requests|rate limit|time-?d? ?out|deadline exceeded"
    r"|lookup (\S+\.)?docker\.io\b.*no such host"
    r"|connection (refused|reset)|temporary failure|server misbehaving|unexpected EOF"
    r"|service unavailable|bad gateway|internal server error|network is unreachable"
    r"|context canceled|no route to host|\b(429|50[0234])\b",
    re.IGNORECASE,
)
_DISK_FULL = re.compile(r"no space left|disk quota exceeded", re.IGNORECASE)
_PERMANENT = re.compile(
    r"manifest unknown|manifest for \S+ not found|no matching manifest|does not match the "
    r"specified platform|pull access denied|requested access to the resource is denied"
    r"|repository \S* ?(does not exist|not found)|repository name not known|name unknown"
    r"|unauthorized|authentication required|no basic auth credentials|access forbidden"
    r"|denied: (access|permission)|invalid reference format"
    # GitHub's registry and Amazon's give no other reason than the registry's own words.
    r"|(daemon:|registry:|IMAGE:?) denied\b|server gave HTTP response to HTTPS client"
    r"|failed to resolve reference .*not found"
    # The engine cannot start the provider's launcher in it: no shell, or another processor's.
    r'|exec: \\*"(/(usr/)?bin/)?(ba)?sh\\*": (executable file not found|stat \S+ no such file|'
    r"permission denied)|exec format error",
    re.IGNORECASE,
)

# What the container's log says where no SSH server can be installed or started in an image: the
# words of shells, package managers and OpenSSH (vastsim/FACTS.md, Machines).
_NO_SERVER = re.compile(
    r"\b(apt-get|apt|sshd|ssh-keygen): ((command )?not found|inaccessible or not found)"
    r"|/sshd: no such file or directory"
    r"|unable to locate package openssh|package '?openssh\S* has no installation candidate"
    r"|(no match for argument|no package|unable to find a match): openssh"
    r"|openssh\S* \(no such package\)"
    r"|unable to install openssh|exec (/usr)?/bin/(ba)?sh: no such file|exec format error"
    r"|must be owned by root and not group or world-writable"
    r"|privilege separation user sshd does not exist|missing privilege separation directory",
    re.IGNORECASE,
)
_HOSTS_OWN = re.compile(
    r"temporary failure|could not resolve|could not connect|unable to connect|connection failed"
    r"|temporary error \(try again|bad address|could not get lock|hash sum mismatch"
    r"|read-only file system",
    re.IGNORECASE,
)
"""What keeps packages away on one host, and not on another."""
LOG_CHARACTERS_READ = 64 << 10
"""Of the end of a log: the installer's words are the last ones."""


def missing_server(log: str) -> str | None:
    """Returns the first line of a container's log that says why its image has no SSH server; None =
    none does, or the host's network or disk may be the cause.
    """
    said = log[-LOG_CHARACTERS_READ:]
    if any(passing.search(said) for passing in (_DISK_FULL, _HOSTS_OWN, _PASSING)):
        return None
    lines = (line.strip() for line in said.splitlines() if _NO_SERVER.search(line))
    return next(lines, None)


def pull_failure(words: str, image: str) -> PullFailure | None:
    """Returns why the image was not pulled, or not started, by the words of the provider; None =
    they do not say.

    An image may have any of these words in its name, so its name is taken out of them first.
    """
    said = _without_name(words, image)
    if _DISK_FULL.search(said):
        return PullFailure.DISK_FULL
    if _PASSING.search(said):
        return PullFailure.PASSING
    return PullFailure.PERMANENT if _PERMANENT.search(said) else None


def _without_name(words: str, image: str) -> str:
    name = image.partition("@")[0]
    repository, _, tag = name.rpartition(":")
    if not repository or "/" in tag:
        # What follows the colon is a port, or there is none.
        repository, tag = name, ""
    first, _, path = repository.partition("/")
    # Docker tells what it pulls without the registry's host.
    names = {repository, path} if path and re.search(r"[.:]|^localhost$", first) else {repository}
    # The status of a machine writes `_` for the `/` and `:` of the image.
    names |= {re.sub(r"[/:]", "_", one) for one in names}
    either = "|".join(re.escape(one) for one in sorted(names))
    named = rf"\S*(?<![\w.-])(?:{either})(?![a-z0-9-])\S*"
    tagged = rf"(?<!\S){re.escape(tag)}(?=:?(?:\s|$))" if tag else r"(?!)"
    return re.sub(f"{named}|{tagged}", "IMAGE", words, flags=re.IGNORECASE)


class Found(StrEnum):
    """What an attempt showed of its image."""

    WORKS = "works"
    """A driver logged in to a machine that runs it."""
    UNBOOTED = "unbooted"
    """It did not come up on a host, and nothing says why."""
    UNUSABLE = "unusable"
    """It cannot be pulled or started, or has no SSH server, or came up on none of two hosts."""


@dataclass(frozen=True, kw_only=True)
class ImageTrial:
    """What one attempt showed of its image."""

    namespace: str
    image: str
    node_uid: str
    host_id: int
    at: datetime
    found: Found


@dataclass(frozen=True)
class ImageMemory:
    """The trials that are remembered, oldest first."""

    trials: tuple[ImageTrial, ...] = ()

    def works(self, namespace: str, image: str, now: datetime) -> bool:
        """Whether the image was lately seen to work."""
        return any(one.found is Found.WORKS for one in self._of(namespace, image, now))

    def unusable_since(self, namespace: str, image: str, now: datetime) -> datetime | None:
        """Returns when the image was last found unusable; None = it was not, or works since."""
        known = [one for one in self._of(namespace, image, now) if one.found is not Found.UNBOOTED]
        return known[-1].at if known and known[-1].found is Found.UNUSABLE else None

    def failed_hosts(self, namespace: str, image: str, now: datetime) -> frozenset[int]:
        """Returns the known hosts on which the image lately did not come up."""
        trials = self._of(namespace, image, now)
        return frozenset(one.host_id for one in trials if one.found is not Found.WORKS) - {0}

    def _of(self, namespace: str, image: str, now: datetime) -> list[ImageTrial]:
        return [
            one
            for one in self.trials
            if (one.namespace, one.image) == (namespace, image) and _is_fresh(one, now)
        ]


def remembered_image(memory: ImageMemory, trial: ImageTrial) -> ImageMemory:
    """Returns the memory with one more trial, without those that count no more.

    A trial that is reported again changes nothing, and neither does one more machine on which an
    image works that has lately been seen to: most attempts need no write.
    """
    same = [
        one for one in memory.trials if (one.namespace, one.image) == (trial.namespace, trial.image)
    ]
    if any((one.node_uid, one.found) == (trial.node_uid, trial.found) for one in same):
        return memory
    both_work = bool(same) and same[-1].found is trial.found is Found.WORKS
    if both_work and trial.at - same[-1].at < IMAGES_REMEMBERED_FOR / 2:
        return memory
    kept = [one for one in memory.trials if _is_fresh(one, trial.at)]
    return ImageMemory((*kept, trial)[-TRIALS_KEPT:])


def _is_fresh(trial: ImageTrial, now: datetime) -> bool:
    return now - trial.at < IMAGES_REMEMBERED_FOR
