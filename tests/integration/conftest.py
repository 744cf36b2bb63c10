"""One control plane for each worker; what runs on it is a test's own, or shared by many.

A test that disturbs neither the operator nor the market says so by `@pytest.mark.shared_world`: its
`world` is a namespace of its own, on an operator and a simulator that go on after it. Any other
test that asks for a `world` gets all of it fresh.
"""

import json
import ssl
import statistics
import subprocess
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.integration.api import BOOTSTRAP, TOKENS, Api, api_server, record
from tests.integration.client import path_of
from tests.integration.parts import (
    ROOT,
    Kubectl,
    Object,
    Operator,
    PodRunner,
    Simulator,
    authorities,
    environment,
    eventually,
    operators_config,
)

from gpujob.adapters.transport import trust_in
from gpujob.api.schema import KINDS
from localcluster import binaries
from localcluster.control_plane import Audit, ControlPlane


@dataclass
class World:
    """Everything that a test needs."""

    plane: ControlPlane
    kubectl: Kubectl
    simulator: Simulator
    operator: Operator
    pods: PodRunner
    namespace: str
    let_go_file: Path

    def waits(self, before: str = ":", after: str = ":") -> list[str]:
        """Returns a command that goes on from the one to the other only once it is let go."""
        waiting = f"until [ -e {self.let_go_file} ]; do sleep 0.3; done"
        return ["sh", "-c", f"{before}; {waiting}; {after}"]

    def let_go(self) -> None:
        """Lets all go on that wait, and whatever comes to wait later."""
        self.let_go_file.touch()

    def apply_job(self, name: str, labels: Object | None = None, /, **spec: object) -> None:
        """Applies a GpuJob that would succeed, changed by keyword."""
        wanted = {
            "image": "python:3.11",
            "command": ["sh", "-c", "echo hello; sleep 1; echo bye"],
            "activeDeadlineSeconds": 120,
            "gpu": {"models": ["RTX 4090"]},
            "data": {"maxDownloadGB": 1, "maxUploadGB": 1},
            "cost": {"ceiling": "2.00"},
        }
        manifest = {
            "apiVersion": "gpujob.dev/v1alpha1",
            "kind": "GpuJob",
            "metadata": {"name": name, "namespace": self.namespace, "labels": labels or {}},
            # As kubectl does, leave out what is null.
            "spec": {key: value for key, value in (wanted | spec).items() if value is not None},
        }
        self.kubectl.client.apply(manifest)

    def job(self, name: str) -> Object:
        """Returns a job; empty if there is none."""
        return self.kubectl.get("gpujob", name, self.namespace) or {}

    def condition(self, name: str, kind: str) -> Object:
        """Returns a job's condition; empty if it is not there."""
        found = self.job(name).get("status", {}).get("conditions", [])
        return next((one for one in found if one["type"] == kind), {})

    def await_reason(self, name: str, *reasons: str) -> Object:
        """Waits until a job's summary gives one of these reasons, and returns the job."""

        def look() -> Object | None:
            reason = self.condition(name, "Ready").get("reason")
            return self.job(name) if reason in reasons else None

        found: Object = eventually(f"{name} is {' or '.join(reasons)}", look)
        return found

    def metrics(self) -> str:
        """Returns what the operator tells a scraper that may read it."""
        system = ("-n", "gpujob-system")
        if self.kubectl.run("get", "serviceaccount", "scraper", *system).returncode != 0:
            may = ("--verb=get", "--non-resource-url=/metrics")
            who = "--serviceaccount=gpujob-system:scraper"
            self.kubectl("create", "serviceaccount", "scraper", *system)
            self.kubectl("create", "clusterrole", "scraper", *may)
            self.kubectl("create", "clusterrolebinding", "scraper", "--clusterrole=scraper", who)
        token = self.kubectl("create", "token", "scraper", *system).strip()
        return self.operator.probe("metrics", token)[1]

    def trust(self) -> ssl.SSLContext:
        """Returns what a client needs that believes the controller alone."""

        return trust_in(authorities(self.kubectl))

    def await_listings(self, count: int) -> None:
        """Waits until the operator has asked for its machines so often again: it has had time."""

        def listings() -> int:
            return sum(one["path"] == "/api/v1/instances/" for one in self.simulator.requests())

        before = listings()
        eventually(f"{count} more listings", lambda: listings() >= before + count)

    def kept(self, look: Callable[[], Any]) -> Callable[[], Any]:
        """Returns what looks, and starts an operator that has ended again, as a Deployment does."""

        def again() -> Any:
            if not self.operator.runs:
                self.operator.launch()
            return look()

        return again

    def await_released(self) -> None:
        """Waits until the simulator has nothing rented."""
        eventually("nothing is rented", lambda: not self.simulator.living())


def pytest_addoption(parser: pytest.Parser) -> None:
    """Lets a run take all of the chaos, and any number of spoilt answers."""
    parser.addoption("--chaos", action="store_true", help="as often and as long as it was promised")
    parser.addoption("--spoilt", type=int, default=150, help="answers of the provider")


def pytest_configure(config: pytest.Config) -> None:
    """Lets a connection break while TLS wraps it: CPython 3.11.2 leaves such a socket unclosed.

    `SSLSocket._create` raises after it has taken the socket over. A test that ends an API server
    sees that now and then in its own client; the operator is another process.
    """
    config.addinivalue_line("filterwarnings", "ignore:unclosed <ssl.SSLSocket:ResourceWarning")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what takes long, unless it was asked for; puts first what shares a world.

    Next come the longest, so that at the end no worker waits for another one.
    """
    for item in items:
        if item.get_closest_marker("at_length") and not config.getoption("chaos"):
            item.add_marker(pytest.mark.skip(reason="takes long: by hack/chaos"))
    sharing = [item for item in items if item.get_closest_marker("shared_world")]
    sizes = Counter(item.path for item in sharing)
    groups = dict.fromkeys(map("shared world {}".format, range(1, SHARED_WORLDS + 1)), 0)
    group_of = {}
    for path, size in sorted(sizes.items(), key=lambda one: (-one[1], one[0])):
        group_of[path] = min(groups, key=lambda group: groups[group])
        groups[group_of[path]] += size
    for item in sharing:
        # Else any two of them might run on different workers, each with a world to start.
        item.add_marker(pytest.mark.xdist_group(group_of[item.path]))
    first = set(sharing)
    items.sort(key=lambda item: (item not in first, item.path.stem not in LONGEST))


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Notes which tests have failed, for what they have shared."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


LONGEST = (
    *("test_leader", "test_chaos", "test_faults", "test_tls", "test_states", "test_kueue"),
    *("test_learning", "test_hostile_answers", "test_namespaced", "test_generated_requests"),
    "test_chart",
)

SHARED_WORLDS = 3
"""As many workers can have one at once."""

FIGURES = pytest.StashKey[list[tuple[str, ...]]]()
COLUMNS = ("what", "times", "rents", "per attempt", "orphans", "left", "seconds until clean")


@dataclass
class Scale:
    """How often, and how long; and where the figures go."""

    times: int
    """How often each kill is tried."""
    slowness: float
    """Of the times that the promise names, this share passes."""
    figures: list[tuple[str, ...]]

    def note(self, what: str, simulator: Simulator, orphans: int, seconds: list[float]) -> None:
        """Notes what came of one case; `seconds` holds one figure for each time it was tried."""
        ledger = simulator.ledger()
        each = Counter(lease["label"] for lease in ledger)
        spread = f"{statistics.median(seconds):.1f} (at most {max(seconds):.1f})"
        figures = (len(seconds), len(ledger), max(each.values()), orphans, len(simulator.living()))
        self.figures.append((what, *(str(one) for one in figures), spread))


@pytest.fixture
def scale(request: pytest.FixtureRequest) -> Scale:
    """A share, or with `--chaos` all of it."""
    figures = request.config.stash.setdefault(FIGURES, [])
    if request.config.getoption("chaos"):
        return Scale(times=20, slowness=1.0, figures=figures)
    return Scale(times=2, slowness=0.05, figures=figures)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Gives the figures of a worker to the process that prints."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["figures"] = session.config.stash.get(FIGURES, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Takes the figures of a worker that has ended."""
    figures = node.config.stash.setdefault(FIGURES, [])
    figures += [tuple(row) for row in getattr(node, "workeroutput", {}).get("figures", [])]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Prints the figures of the chaos."""
    rows = config.stash.get(FIGURES, [])
    if rows and config.getoption("chaos"):
        terminalreporter.section("figures")
        widths = [max(len(row[at]) for row in (COLUMNS, *rows)) for at in range(len(COLUMNS))]
        for row in (COLUMNS, *rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            terminalreporter.write_line("  ".join(cells).rstrip())


ROLES = ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
POLICIES = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
INSTALLED = ("CustomResourceDefinition", "ServiceAccount", "Service", *ROLES, *POLICIES)
"""What the control plane has of the chart: the programs are processes of the tests."""


def chart(programs: Path) -> list[Object]:
    """Returns what the chart installs."""
    rendered = subprocess.run(
        [
            *(str(programs / "helm"), "template", "gpujob", str(ROOT / "helm/gpujob")),
            *("--namespace=gpujob-system", "--set=vast.existingSecret=vast"),
            "--set=api.enabled=true",
            "--set=driver.image.registry=localhost,driver.image.repository=gpujob-driver",
            "--set=driver.image.tag=dev",
        ],
        check=True,
        capture_output=True,
        text=True,
        env=environment(),
    ).stdout
    return [one for one in yaml.safe_load_all(rendered) if one]


@contextmanager
def control_plane(state: Path, audit: Audit | None = None) -> Iterator[ControlPlane]:
    """A control plane with the chart's CRDs, rights and policies."""
    programs = binaries.ensure(binaries.CONTROL_PLANE + binaries.CHART)
    with ControlPlane(state, quiet=True, audit=audit) as running:
        kubectl = Kubectl(running, running.kubeconfig)
        documents = chart(programs)
        kubectl("create", "namespace", "gpujob-system")
        install(kubectl, [one for one in documents if one["kind"] in INSTALLED])
        yield running


def install(kubectl: Kubectl, documents: list[Object]) -> None:
    """Applies what the chart installs, and waits until it is in force."""
    listed = {"apiVersion": "v1", "kind": "List", "items": documents}
    force = ("--server-side", "--force-conflicts")
    kubectl("apply", *force, "-f", "-", text=json.dumps(listed))
    kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=240s")
    eventually("the policies are in force", lambda: is_held(kubectl))
    # Until its first listing a new kind may be refused with "storage is (re)initializing".
    eventually("its kinds are listed", lambda: lists(kubectl))


def lists(kubectl: Kubectl) -> bool:
    """Whether the API server lists all kinds of ours by now."""
    return all(kubectl.client.listing(kind.plural) is not None for kind in KINDS)


def is_held(kubectl: Kubectl, namespace: str = "default") -> bool:
    """Whether the API server holds a namespace to the policies by now."""
    node = {
        "apiVersion": "gpujob.dev/v1alpha1",
        "kind": "GpuNode",
        "metadata": {"name": "forged", "namespace": namespace},
        "spec": {"jobRef": {"name": "none", "uid": "none"}, "attempt": 1, "reservedUSD": "0"},
    }
    done = kubectl.run("create", "--dry-run=server", "-f", "-", text=json.dumps(node))
    return "only the operator may" in done.stderr


@contextmanager
def fresh_namespace(kubectl: Kubectl) -> Iterator[str]:
    """A namespace of a test's own that enforces the restricted profile."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    client, spaces = kubectl.client, "/api/v1/namespaces"
    made, answer = client.send("POST", spaces, {"metadata": {"name": name, "labels": restricted}})
    assert made == 201, answer
    eventually(
        "the default service account", lambda: kubectl.get("serviceaccount", "default", name)
    )
    yield name

    # The operator is gone by now: what it still held is let go by hand, and surely deleted, since
    # the next test's operator would go on with it, and destroy a machine of its own market that
    # happens to have the same id. The namespace is left: to end one costs the control plane eighty
    # requests, which were a fifth of all.
    def let_go() -> bool:
        left = [
            path_of(kind, one["metadata"]["name"], name)
            for kind in ("gpunodes", "gpujobs")
            for one in kubectl.items(kind, "-n", name)
        ]
        for path in left:
            client.send("DELETE", path)
            no_finalizers = {"metadata": {"finalizers": None}}
            client.send("PATCH", path, no_finalizers, "application/merge-patch+json")
        return not left

    eventually(f"nothing is left in {name}", let_go)
    # What any operator reads of all namespaces; a lease may be another release's lock.
    for kind in ("pods", "gpubudgets", "gpujobprofiles", "leases"):
        every = path_of(kind, "", name).rstrip("/")
        client.send("DELETE", every, {"gracePeriodSeconds": 0})


@contextmanager
def staged(
    plane: ControlPlane, simulator: Simulator, folder: Path, **settings: str
) -> Iterator[World]:
    """A namespace and a pod runner on a control plane, and an operator that is not started."""
    kubectl = Kubectl(plane, plane.kubeconfig)
    config = operators_config(plane, folder / "operator.kubeconfig")
    operator = Operator(folder, config, simulator.url, **settings)
    pods = PodRunner(kubectl, folder / "pods")
    with fresh_namespace(kubectl) as namespace:
        pods.start()
        try:
            yield World(plane, kubectl, simulator, operator, pods, namespace, folder / "go")
        finally:
            if operator.runs:
                operator.stop()
            pods.stop()
            forget(kubectl)
            print(f"--- operator's log\n{operator.log[-20000:]}")
            print(f"--- drivers' logs\n{pods.logs()[-5000:]}")


def forget(kubectl: Kubectl) -> None:
    """What one market did to its machines is nothing to the next one's; nor are certificates."""
    for kind, name in (
        ("configmaps", "gpujob-machines"),
        ("gpujobprofiles", "gpujob-all-jobs"),
        ("configmaps", "gpujob-transport-ca"),
        ("secrets", "gpujob-transport-tls"),
    ):
        kubectl.client.delete(kind, name, "gpujob-system")


class SharedWorld:
    """A simulator, an operator and a pod runner for many tests, one after the other."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._running: World | None = None

    def _start(self, plane: ControlPlane) -> World:
        folder = self._factory.mktemp("shared")
        kubectl = Kubectl(plane, plane.kubeconfig)
        simulator = Simulator(folder, share=self._factory.getbasetemp())
        simulator.start()
        config = operators_config(plane, folder / "operator.kubeconfig")
        operator = Operator(folder, config, simulator.url)
        pods = PodRunner(kubectl, folder / "pods")
        self._running = World(plane, kubectl, simulator, operator, pods, "", folder)
        operator.start()
        pods.start()
        return self._running

    def close(self) -> None:
        """Ends it, if it runs; the next test that shares one starts another."""
        if self._running is not None:
            if self._running.operator.runs:
                self._running.operator.stop()
            self._running.pods.stop()
            self._running.simulator.stop()
            forget(self._running.kubectl)
            self._running = None

    @contextmanager
    def of(self, plane: ControlPlane, test: pytest.Item, folder: Path) -> Iterator[World]:
        """A namespace in it for one test; afterwards nothing of the test is left in it."""
        shared = self._running or self._start(plane)
        shared.simulator.turn_the_page()
        logged = len(shared.operator.log)
        with fresh_namespace(shared.kubectl) as namespace:
            shared.pods.namespace = namespace
            yield replace(shared, namespace=namespace, let_go_file=folder / "go")
            print(f"--- operator's log\n{shared.operator.log[logged:][-20000:]}")
            print(f"--- drivers' logs\n{shared.pods.logs()[-5000:]}")
            try:
                self._clear(shared, namespace)
            except BaseException:
                self.close()
                raise
        if FAILED in test.stash:
            # Whatever was wrong is not to become the next test's.
            self.close()

    def _clear(self, shared: World, namespace: str) -> None:
        shared.simulator.faults()
        for job in shared.kubectl.items("gpujobs", "-n", namespace):
            shared.kubectl.client.delete("gpujobs", job["metadata"]["name"], namespace)
        left = ("gpujobs,gpunodes", "-n", namespace)
        eventually("the test's jobs are gone", lambda: not shared.kubectl.items(*left))
        shared.await_released()
        eventually("the operator is ready", lambda: shared.operator.probe("readyz") == (200, "ok"))


@pytest.fixture(scope="session")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedWorld]:
    """What the tests of this worker share; it starts with the first of them."""
    made = SharedWorld(tmp_path_factory)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _alone(request: pytest.FixtureRequest, shared_world: SharedWorld) -> None:
    """No operator that tests share is there for a test that does not share it."""
    if not request.node.get_closest_marker("shared_world"):
        shared_world.close()


@pytest.fixture(scope="session")
def plane(
    tmp_path_factory: pytest.TempPathFactory, shared_world: SharedWorld
) -> Iterator[ControlPlane]:
    """The control plane of this worker."""
    with control_plane(tmp_path_factory.mktemp("plane") / "state") as running:
        yield running
        shared_world.close()


@pytest.fixture(scope="module")
def module_api(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The server with the API, a certificate and tokens."""
    entries = {
        "writer": record(TOKENS["writer"]),
        "reader": record(TOKENS["reader"], "read"),
        "old": record(TOKENS["old"], "write", -1),
        "b": record(TOKENS["b"], "write", 1, "team-b"),
    }
    folder = tmp_path_factory.mktemp("api")
    with api_server(plane, folder, entries, GPUJOB_API_BOOTSTRAP_TOKEN=BOOTSTRAP) as running:
        yield running


@pytest.fixture
def kubectl(plane: ControlPlane) -> Kubectl:
    """kubectl as administrator."""
    return Kubectl(plane, plane.kubeconfig)


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[str]:
    """A namespace of the test's own."""
    with fresh_namespace(kubectl) as name:
        yield name


@pytest.fixture
def operator_kubeconfig(plane: ControlPlane, tmp_path: Path) -> Path:
    """A kubeconfig with the rights of the chart's service account."""
    return operators_config(plane, tmp_path / "replica.kubeconfig")


@pytest.fixture
def operators(plane: ControlPlane, operator_kubeconfig: Path) -> Kubectl:
    """kubectl as the controller."""
    return Kubectl(plane, operator_kubeconfig)


@pytest.fixture
def stage(plane: ControlPlane, tmp_path: Path) -> Iterator[World]:
    """A running simulator and pod runner; the operator is not started."""
    simulator = Simulator(tmp_path)
    simulator.start()
    try:
        with staged(plane, simulator, tmp_path) as made:
            yield made
    finally:
        simulator.stop()


@pytest.fixture
def world(
    request: pytest.FixtureRequest, plane: ControlPlane, tmp_path: Path, shared_world: SharedWorld
) -> Iterator[World]:
    """A running simulator, operator and pod runner: the test's own, or those that many share."""
    if request.node.get_closest_marker("shared_world"):
        with shared_world.of(plane, request.node, tmp_path) as made:
            yield made
    else:
        own: World = request.getfixturevalue("stage")
        own.operator.start()
        yield own
