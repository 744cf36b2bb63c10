"""The container images that machines of the simulator can run, one line for each.

Every image is laid over one Debian file system, as layers are. A name that is not listed here is
the plain image. What an image needs to be rented at all, and what a session on the machine gets of
it: vastsim/FACTS.md, "Machines".
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

ROOTS_HOME = "/root"
"""In the container, unless its image's password file says otherwise."""
DEBIAN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BANNER = "echo 'Welcome. This container is for authorized users only.'\n"
TRAINER = '#!/bin/sh\necho "trained with $TRAINER_HOME in $PWD as $(id -un)"\n'
CONDA_PYTHON = """#!/bin/sh
PATH=/usr/local/bin:/usr/bin PYTHONPATH=/opt/conda/lib exec python3 "$@"
"""
TORCH = """
class cuda:
    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    get_device_name = staticmethod(lambda _=0: "a simulated GPU")
"""


@dataclass(frozen=True)
class Login:
    """What a registry asks for before it gives an image out."""

    registry: str
    user: str
    password: str


@dataclass(frozen=True)
class Image:
    """What a container made from an image has."""

    login: Login | None = None
    """None = anybody may pull it."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Its `ENV`, besides `PATH` if it does not set one."""
    working_dir: str = "/"
    user: int = 0
    """Its `USER`, unless the rent request names one."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Texts by path. One that begins with `#!` can be run."""
    sh: str = "dash"
    """The program of this name."""
    login_shell: str = "/bin/bash"
    """Of root."""
    home: str = ROOTS_HOME
    """Of root, as the password file says."""
    home_owner: int = 0
    home_mode: int = 0o700
    lacks: tuple[str, ...] = ()
    """Paths of programs. Without `/usr/sbin/sshd` the provider's launcher asks apt-get for it; if
    that fails, too, the start script never runs. Without `/bin/sh` nothing can be started."""
    moved: Mapping[str, str] = field(default_factory=dict)
    """Files of the base that are elsewhere, by their new path."""
    foreign: tuple[str, ...] = ()
    """Folders that are not root's, and that everybody may write."""


SSHD, APT = "/usr/sbin/sshd", "/usr/bin/apt-get"
NO_PACKAGE = "#!/bin/sh\necho 'E: Unable to locate package openssh-server' >&2\nexit 100\n"
NO_NETWORK = """#!/bin/sh
echo "Err:1 http://deb.example.org/debian bookworm InRelease" >&2
echo "  Temporary failure resolving 'deb.example.org'" >&2
echo 'E: Unable to locate package openssh-server' >&2
exit 100
"""
CLIENTS = ("curl", "python3", "wget", "perl")
"""Programs that can send a request over HTTP."""

IMAGES: Mapping[str, Image] = {
    "vastsim/banner": Image(files={"/etc/bash.bashrc": BANNER}),
    "vastsim/banner-of-home": Image(files={f"{ROOTS_HOME}/.bashrc": BANNER + "echo more >&2\n"}),
    "vastsim/greedy": Image(files={"/etc/bash.bashrc": "cat >/dev/null\n"}),
    "vastsim/exits": Image(files={"/etc/bash.bashrc": "exit 3\n"}),
    "vastsim/execs": Image(files={f"{ROOTS_HOME}/.bashrc": "exec sleep 1000000\n"}),
    "vastsim/home": Image(environment={"HOME": "/workspace"}, working_dir="/workspace"),
    "vastsim/moved-home": Image(home="/home/admin"),
    "vastsim/shared-home": Image(home_owner=1000, home_mode=0o777),
    "vastsim/user": Image(user=1000),
    "vastsim/bash": Image(sh="bash"),
    "vastsim/busybox": Image(sh="busybox", login_shell="/bin/sh"),
    "vastsim/private": Image(
        login=Login("docker.io", "robot", "vastsim-canary-8d1f0c2b7a6e5f49+/=")
    ),
    "registry.example.com:5000/team/private": Image(
        login=Login("registry.example.com:5000", "robot@team", "vastsim-canary-5e4d3c2b1a0f9e8d:x")
    ),
    "vastsim/no-sshd": Image(lacks=(SSHD,), files={APT: NO_PACKAGE}),
    "vastsim/no-apt": Image(lacks=(SSHD, APT)),
    "vastsim/no-network": Image(lacks=(SSHD,), files={APT: NO_NETWORK}),
    "vastsim/no-shell": Image(lacks=("/bin/sh",)),
    "vastsim/installs-sshd": Image(
        lacks=(SSHD,), moved={"/opt/sshd": SSHD}, files={APT: f"#!/bin/sh\nmv /opt/sshd {SSHD}\n"}
    ),
    "vastsim/foreign-run": Image(foreign=("/run/sshd",)),
    "vastsim/trainer": Image(
        environment={"PATH": f"/opt/trainer/bin:{DEBIAN_PATH}", "TRAINER_HOME": "/opt/trainer"},
        working_dir="/opt/trainer",
        files={"/opt/trainer/bin/trainer": TRAINER},
    ),
    "pytorch/pytorch": Image(
        environment={"PATH": f"/opt/conda/bin:{DEBIAN_PATH}", "LD_LIBRARY_PATH": "/opt/conda/lib"},
        working_dir="/workspace",
        files={
            "/opt/conda/bin/python": CONDA_PYTHON,
            "/opt/conda/bin/python3": CONDA_PYTHON,
            "/opt/conda/lib/torch.py": TORCH,
        },
    ),
    **{
        f"vastsim/only-{one}": Image(
            lacks=tuple(f"/usr/bin/{name}" for name in CLIENTS if name != one)
        )
        for one in CLIENTS
    },
}
"""By name without tag and digest."""

PLAIN = Image()


def denied(name: str, image_login: str | None) -> str | None:
    """Returns what Docker says if the login does not let it pull an image; None if it does.

    Raises ValueError if the login has not the form `-u USER -p PASSWORD [REGISTRY]`.
    """
    asked = image(name).login
    given = _login(image_login) if image_login else None
    if asked is None or given == asked:
        return None
    if given is None or given.registry != asked.registry:
        repository = name.partition("@")[0].rpartition(":")[0] or name
        return (
            f"Error response from daemon: pull access denied for {repository}, repository does not "
            "exist or may require 'docker login': denied: requested access to the resource is "
            "denied"
        )
    return (
        f'Error response from daemon: Get "https://{asked.registry}/v2/": unauthorized: incorrect '
        "username or password"
    )


def _login(arguments: str) -> Login:
    match shlex.split(arguments):
        case ["-u", user, "-p", password]:
            return Login("docker.io", user, password)
        case ["-u", user, "-p", password, registry]:
            return Login(registry, user, password)
    raise ValueError("image_login must be: -u USER -p PASSWORD REGISTRY")


def image(name: str) -> Image:
    """Returns the image of this name, whatever its tag or digest."""
    path, _, last = name.partition("@")[0].rpartition("/")
    repository = last.partition(":")[0]
    return IMAGES.get(f"{path}/{repository}" if path else repository, PLAIN)
