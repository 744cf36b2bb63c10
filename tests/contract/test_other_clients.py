"""Other people's clients of the provider, unmodified, against the simulator: its official command
line and SDK, and gpuhunt, which dstack finds its offers with.

They are in an environment of their own (`hack/clients`).
"""

import asyncio
import csv
import json
import re
import ssl
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from tests.authority import certificate, listening
from tests.contract.test_machines import new_key
from tests.integration.parts import KEY, Simulator, eventually

from vastsim.gpus import MODELS
from vastsim.offers import DEFAULT_FILE

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parent / "clients"
PATIENCE_SECONDS = 120
Object = dict[str, Any]


@pytest.fixture(scope="module")
def programs() -> Path:
    """The folder of the clients' programs."""
    made = subprocess.run([ROOT / "hack/clients"], check=True, capture_output=True, text=True)
    return Path(made.stdout.strip()) / "bin"


def variables(home: Path, **more: str) -> dict[str, str]:
    """What the clients' processes see."""
    return {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "VASTAI_NO_UPDATE_CHECK": "1",
        "COLUMNS": "200",
    } | more


class CommandLine:
    """The official command line."""

    def __init__(self, programs: Path, home: Path, address: str) -> None:
        self._program = programs / "vastai"
        self._variables = variables(home, VAST_URL=address)
        self._process = subprocess.Popen(
            [programs / "python", SCRIPTS / "cli.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._variables,
            cwd=home,
        )

    def alone(self, *arguments: str) -> str:
        """Runs a command as a user does; returns what it says."""
        done = subprocess.run(
            [self._program, *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            env=self._variables,
            check=True,
        )
        return done.stdout

    def __call__(self, *arguments: str) -> str:
        """Runs a command in a fork of a process that has loaded the program already."""
        assert self._process.stdin is not None, "asked for as a pipe"
        assert self._process.stdout is not None, "asked for as a pipe"
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert answer["status"] == 0, answer
        assert "Traceback" not in answer["errors"], answer
        return str(answer["said"])

    def raw(self, *arguments: str) -> Any:
        """Runs a command that says JSON, and returns it."""
        # Early, because what follows `--args` is the arguments of a container.
        return json.loads(self(*arguments[:2], "--raw", *arguments[2:]))

    def end(self) -> None:
        """Ends it."""
        self._process.communicate()


@pytest.fixture
def vastai(programs: Path, simulator: Simulator, tmp_path: Path) -> Iterator[CommandLine]:
    """The official command line with the account's key."""
    home = tmp_path / "home"
    for folder in (".config", ".cache", ".local/state"):
        # Two of its processes that begin at once fail over a folder that both would make.
        (home / folder / "vastai").mkdir(parents=True)
    made = CommandLine(programs, home, simulator.url)
    made.alone("set", "api-key", KEY)
    yield made
    made.end()


def market_file() -> list[Object]:
    """The offers of the market file."""
    with DEFAULT_FILE.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_command_line_searches(vastai: CommandLine, simulator: Simulator) -> None:
    """What it finds is what the market file holds, whatever form its numbers have."""
    rows = market_file()
    verified = [row for row in rows if row["verification"] == "verified"]

    def count(query: str, *more: str) -> int:
        return len(vastai.raw("search", "offers", query, *more))

    def among(held: list[Object], test: Callable[[Object], bool]) -> int:
        return min(len([row for row in held if test(row)]), 64)

    assert json.loads(vastai.alone("show", "user", "--raw"))["credit"] == 100.0
    assert count("gpu_name=RTX_4090 num_gpus=1") == among(
        verified, lambda row: (row["gpu_name"], row["num_gpus"]) == ("RTX 4090", "1")
    )
    assert count("gpu_name=H200 verified=any") == among(rows, lambda r: r["gpu_name"] == "H200")
    assert count("gpu_name=H200", "-n") == among(rows, lambda row: row["gpu_name"] == "H200")
    assert count("verified=false rentable=true", "-n") == among(
        rows, lambda row: row["verification"] != "verified"
    )
    assert count("compute_cap>=900 geolocation in [US,CA] verified=any") == among(
        rows, lambda r: MODELS[r["gpu_name"]].compute_cap >= 900 and r["country"] in ("US", "CA")
    )
    assert count("compute_cap>=1000 verified=any") == 0
    # The command line multiplies gigabytes by 1000, and cards report their size in units of 1024.
    assert count("gpu_name=L40S gpu_ram>=40 verified=any reliability>0.99") == among(
        rows,
        lambda row: (
            row["gpu_name"] == "L40S"
            and int(row["gpu_ram_mib"]) >= 40_000
            and float(row["reliability2"]) > 0.99
        ),
    )
    assert count("driver_version>=580.65.06 verified=any gpu_name=RTX_4090") == among(
        rows,
        lambda row: row["gpu_name"] == "RTX 4090" and float(row["cuda_max_good"] or 0) >= 13.0,
    )
    bids = vastai.raw("search", "offers", "num_gpus=1", "--type", "bid", "-o", "dph_total")
    assert [row["dph_base"] for row in bids] == [row["min_bid"] for row in bids]
    assert [row["dph_total"] for row in bids] == sorted(row["dph_total"] for row in bids)
    new = vastai.raw("search", "offers", "num_gpus>=2", "--new", "--limit", "3", "--storage", "100")
    assert len(new) == 3
    for row in new:
        disk = 100 * row["storage_cost"] / 720
        assert row["dph_total"] == pytest.approx(row["dph_base"] + disk)
    assert "RTX_4090" in vastai("search", "offers", "gpu_name=RTX_4090")
    assert not [one for one in simulator.requests() if one["status"] != 200]


def logged_in(address: str, key: Path, *command: str, terminal: bool = False) -> str:
    """Runs a command over SSH at such an address, with OpenSSH's own program."""
    match = re.fullmatch(r"ssh://root@([\d.]+):(\d+)", address.strip())
    assert match, address
    options = ["-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", "-oBatchMode=yes"]
    place = ["-p", match[2], *["-tt"] * terminal, f"root@{match[1]}"]

    def tried() -> "subprocess.CompletedProcess[str] | None":
        done = subprocess.run(
            ["ssh", *options, "-q", "-i", key, *place, *command],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        # A machine that comes up again lets nobody in for a moment.
        return None if done.returncode == 255 else done

    found: subprocess.CompletedProcess[str] = eventually("it lets us in", tried)
    found.check_returncode()
    return found.stdout


def copied(address: str, key: Path, source: Path, target: str) -> None:
    """Copies a file to a machine with OpenSSH's own program."""
    match = re.fullmatch(r"scp://root@([\d.]+):(\d+)", address.strip())
    assert match, address
    options = ["-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", "-oBatchMode=yes"]
    place = f"root@{match[1]}:{target}"
    command = ["scp", *options, "-q", "-i", key, "-P", match[2], source, place]
    subprocess.run(command, timeout=PATIENCE_SECONDS, check=True)


def states(simulator: Simulator) -> dict[int, str]:
    """The state of each machine by its number."""
    return {one["id"]: one["state"] for one in simulator.ledger()}


def runs(simulator: Simulator, *numbers: int) -> None:
    """Waits until machines run."""
    eventually(
        f"{numbers} run", lambda: all(states(simulator)[one] == "running" for one in numbers)
    )


def cheapest(vastai: CommandLine, kind: str = "on-demand", count: int = 1) -> list[Object]:
    """The cheapest offers."""
    command = ("search", "offers", "verified=any num_gpus=1", "-o", "dph_total", "--type", kind)
    found: list[Object] = vastai.raw(*command, "--limit", str(count))
    return found


def test_the_command_line_leads_a_whole_life(
    vastai: CommandLine, simulator: Simulator, tmp_path: Path
) -> None:
    """Rents, looks, logs in, copies, stops, starts, makes anew, and destroys."""
    key, other = tmp_path / "key", tmp_path / "other"
    public, other_public = new_key(key), new_key(other)
    vastai("create", "ssh-key", public)
    (offer,) = cheapest(vastai)
    made = vastai.raw(
        *("create", "instance", str(offer["id"]), "--image", "nvidia/cuda:12.4.1", "--disk", "16"),
        *("--ssh", "--direct", "--label", "mine", "--onstart-cmd", "env > /started; echo hello"),
        *("--env", "-e COLOUR=green -p 8080:8080 -p 9000:9000/udp"),
    )
    number = made["new_contract"]
    runs(simulator, number)
    row = vastai.raw("show", "instance", str(number))
    assert (row["label"], row["image_uuid"], row["disk_space"]) == (
        "mine",
        "nvidia/cuda:12.4.1",
        16.0,
    )
    assert set(row["ports"]) == {"22/tcp", "8080/tcp", "9000/udp"}
    assert str(number) in vastai("show", "instances")
    assert [one["id"] for one in vastai.raw("show", "instances", "--label", "mine")] == [number]
    assert vastai.raw("show", "instances", "--label", "yours") == []

    address = vastai("ssh-url", str(number))
    started = logged_in(address, key, "cat", "/started").splitlines()
    outside = row["ports"]["8080/tcp"][0]["HostPort"]
    expected = {
        "COLOUR=green",
        f"VAST_TCP_PORT_8080={outside}",
        f"VAST_TCP_PORT_22={row['ports']['22/tcp'][0]['HostPort']}",
        f"VAST_UDP_PORT_9000={row['ports']['9000/udp'][0]['HostPort']}",
        f"VAST_CONTAINERLABEL=C.{number}",
        f"CONTAINER_ID={number}",
        f"SSH_PUBLIC_KEY={public}",
        "GPU_COUNT=1",
        "PUBLIC_IPADDR=127.0.0.1",
    }
    assert expected <= set(started)
    (tmp_path / "sent").write_text("through scp")
    copied(vastai("scp-url", str(number)), key, tmp_path / "sent", "sent")
    assert logged_in(address, key, "cat", "sent") == "through scp"
    assert "hello" in vastai("logs", str(number), "--tail", "50")
    vastai("attach", "ssh", str(number), other_public)
    assert logged_in(address, other, "id", "-un") == "root\n"
    assert logged_in(address, key, "tty", terminal=True).startswith("/dev/pts/")

    vastai("label", "instance", str(number), "renamed")
    assert [one["label"] for one in vastai.raw("show", "instances")] == ["renamed"]
    vastai("reboot", "instance", str(number))
    assert logged_in(address, key, "cat", "sent") == "through scp"
    vastai("stop", "instance", str(number))
    assert states(simulator)[number] == "stopped"
    assert vastai.raw("show", "instance", str(number))["actual_status"] == "exited"
    vastai("start", "instance", str(number))
    runs(simulator, number)
    assert logged_in(address, key, "cat", "sent") == "through scp"
    vastai("recycle", "instance", str(number))
    runs(simulator, number)
    with pytest.raises(subprocess.CalledProcessError):
        logged_in(address, key, "cat", "sent")

    assert "destroying" in vastai("destroy", "instance", str(number), "-y")
    assert states(simulator)[number] == "destroyed"
    eventually("it is listed no more", lambda: vastai.raw("show", "instances") == [])
    bad = [one for one in simulator.requests() if one["status"] != 200]
    # Of a log that was not there yet, and of the list of keys before there was one.
    assert {one["path"].split("/")[1] for one in bad} <= {"storage"}, bad


def test_the_command_line_shows_what_was_billed(vastai: CommandLine, simulator: Simulator) -> None:
    """A row for the day, with a line for each kind; what was paid in; the old form of both."""
    (offer,) = cheapest(vastai)
    number = vastai.raw("create", "instance", str(offer["id"]), "--image", "x")["new_contract"]
    vastai("label", "instance", str(number), "billed")
    runs(simulator, number)
    simulator.ask("POST", f"traffic/{number}", {"download_gb": 400, "upload_gb": 100})
    vastai("destroy", "instance", str(number), "-y")

    def charges() -> Object:
        return dict(vastai.raw("show", "invoices-v1", "-c"))

    eventually("it is recorded", lambda: [len(x["items"]) for x in charges()["results"]] == [4])
    (row,) = charges()["results"]
    (lease,) = simulator.ledger()
    assert (row["source"], row["metadata"]) == (f"instance-{number}", {"label": "billed"})
    assert {item["type"] for item in row["items"]} == {"gpu", "disk", "bwd", "bwu"}
    assert row["amount"] == float(round(Fraction(lease["total_usd"]), 3)) > 0
    down = next(item for item in row["items"] if item["type"] == "bwd")
    assert down["description"].startswith("400.000 GB at $")
    assert f"{number}" in vastai("show", "invoices-v1", "-c", "-f", "tree", "-v")
    assert len(vastai.raw("show", "invoices-v1", "-c", "-ct", "i")["results"]) == 1
    assert vastai.raw("show", "invoices-v1", "-c", "-ct", "v")["results"] == []
    (paid,) = vastai.raw("show", "invoices-v1", "-i")["results"]
    assert (paid["type"], paid["amount"]) == ("credit", 100.0)
    old = vastai.raw("show", "invoices")
    assert {one["type"] for one in old} >= {"charge"}
    assert "Total" in vastai("show", "invoices", "-s", "2020-01-01")
    left = Fraction(100) - Fraction(lease["total_usd"])
    assert vastai.raw("show", "user")["credit"] == pytest.approx(float(left))


def test_the_command_line_bids_runs_programs_and_acts_on_many(
    vastai: CommandLine, simulator: Simulator
) -> None:
    """A bid that is lowered loses the GPUs and gets them back; a program is reached at its port."""
    (offer,) = cheapest(vastai, "bid")
    bid = str(offer["min_bid"] * 2)
    create = ("create", "instance")
    lease = vastai.raw(*create, str(offer["id"]), "--image", "x", "--bid_price", bid)
    number = lease["new_contract"]
    runs(simulator, number)
    assert vastai.raw("show", "instance", str(number))["dph_base"] == pytest.approx(float(bid))
    vastai("change", "bid", str(number), "--price", str(offer["min_bid"] / 2))
    assert states(simulator)[number] == "stopped"
    vastai("change", "bid", str(number), "--price", bid)
    runs(simulator, number)

    serve = "python3 -c 'import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=18473)'"
    (offer,) = cheapest(vastai)
    program = vastai.raw(
        *create,
        str(offer["id"]),
        *("--image", "x", "--env", "-p 18473:18473", "--onstart-cmd", "/bin/sh"),
        *("--args", "-c", f"echo to be seen > /tmp/page; cd /tmp; {serve}"),
    )
    served = program["new_contract"]
    runs(simulator, served)
    row = vastai.raw("show", "instance", str(served))
    assert (row["image_runtype"], set(row["ports"])) == ("args", {"18473/tcp"})
    page = f"http://127.0.0.1:{row['ports']['18473/tcp'][0]['HostPort']}/page"

    def body() -> bytes:
        with urllib.request.urlopen(page, timeout=20) as answer:
            return bytes(answer.read())

    def is_served() -> bool:
        try:
            return body() == b"to be seen\n"
        except OSError:
            return False

    eventually("the program answers", is_served)

    (offer,) = cheapest(vastai)
    short = vastai.raw(*create, str(offer["id"]), "--image", "x", "--args", "true")["new_contract"]
    eventually("it has ended", lambda: states(simulator)[short] == "exited")
    found = vastai.raw("show", "instance", str(short))
    assert (found["actual_status"], found["cur_state"]) == ("exited", "running")

    numbers = [str(one) for one in (number, served)]
    vastai("stop", "instances", *numbers)
    assert {states(simulator)[int(one)] for one in numbers} == {"stopped"}
    vastai("start", "instances", *numbers)
    runs(simulator, number, served)
    vastai("destroy", "instances", *numbers, str(short), "-y")
    assert set(states(simulator).values()) == {"destroyed"}


DONE = """attach_ssh change_bid create_instance create_instances create_ssh_key
delete_ssh_key destroy_instance destroy_instances detach_ssh execute fetch_contracts label_instance
launch_instance logs reboot_instance recycle_instance scp_url search_benchmarks search_benchmarks_v1
search_invoices search_network_volumes search_offers search_offers_new search_templates
search_volumes show_api_keys show_audit_logs show_clusters show_connections show_deployments
show_deposit show_earnings show_endpoints show_env_vars show_instance show_instance_backups
show_instance_filters show_instances show_instances_v1 show_invoices show_invoices_v1 show_ipaddrs
show_machines show_maints show_members show_network_disks show_overlays
show_pending_price_increases show_scheduled_jobs show_ssh_keys show_subaccounts show_team_members
show_team_roles show_user show_volumes show_workergroups ssh_url start_instance start_instances
stop_instance stop_instances tfa_status update_ssh_key"""
"""The methods of the SDK that do what they say; the others are refused."""


def test_every_call_of_the_sdk_is_done_or_refused_as_the_provider_refuses(
    programs: Path, simulator: Simulator, tmp_path: Path
) -> None:
    """None is unknown, none fails, and what is refused says so in the provider's form."""
    public = [new_key(tmp_path / f"key-{count}") for count in range(4)]
    added = simulator.ask("POST", "/api/v0/ssh/", {"ssh_key": public[0]})
    query = {"order": [["dph_total", "asc"]], "num_gpus": {"eq": 1}, "limit": 20}
    offers = [one["id"] for one in simulator.ask("POST", "/api/v0/bundles/", query)["offers"]]
    rent = {"image": "x", "disk": 10}
    numbers = [
        simulator.ask("PUT", f"/api/v0/asks/{offers.pop()}/", rent | more)["new_contract"]
        for more in ({"price": 5.0}, {}, {}, {}, {})
    ]
    runs(simulator, *numbers)
    account_key = added["key"]["id"]
    held = {
        "id": numbers[0],
        "instance_id": numbers[0],
        "ids": numbers[1:3],
        "image": "x",
        "ssh_key": public[1],
        "create_ssh_key.ssh_key": public[3],
        "command": "ls /",
        "query": {},
        "params": {},
        "price": 4.0,
        "gpu_name": "RTX_4090",
        "num_gpus": "1",
        "create_instance.id": offers.pop(),
        "create_instance.image": "x",
        "create_instances.ids": [offers.pop(), offers.pop()],
        "create_instances.image": "x",
        "destroy_instance.id": numbers[3],
        "destroy_instances.ids": numbers[4:],
        "delete_ssh_key.id": account_key,
        "update_ssh_key.id": account_key,
        "update_ssh_key.ssh_key": public[2],
        "detach_ssh.ssh_key_id": str(account_key),
        "tfa_activate.**": {"code": "1", "secret": "s"},
        "tfa_resend_sms.**": {"secret": "s"},
        "tfa_update.**": {"method_id": 1, "label": "l"},
    }
    done = subprocess.run(
        [programs / "python", SCRIPTS / "sdk.py", simulator.url, KEY, json.dumps(held)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env=variables(tmp_path),
        check=True,
    )
    calls = [json.loads(line) for line in done.stdout.splitlines()]

    assert len(calls) > 150
    fulfilled = set()
    for call in calls:
        assert call["requests"], call
        for request in call["requests"]:
            body = json.loads(request["body"]) if request["status"] != 200 else {}
            assert request["status"] in (200, 400, 403, 404), call
            if request["status"] != 200:
                assert (set(body), body["success"]) == ({"success", "error", "msg"}, False), call
                assert body["error"] != "not_found", call
        if all(request["status"] == 200 for request in call["requests"]) and not call["error"]:
            fulfilled.add(call["call"])
    assert fulfilled - {one for one in fulfilled if "." in one} == set(DONE.split())
    assert not (tmp_path / "simulator.log").read_text().count("Traceback")


HOST = "console.vast.ai"


@contextmanager
def as_the_provider(simulator: Simulator, folder: Path) -> Iterator[dict[str, str]]:
    """Lets clients that know the provider by its name alone reach the simulator.

    Yields the variables that send them through a proxy, which shows a certificate of the name.
    """
    made = certificate(HOST)
    (folder / "authority.pem").write_text(made.authority)
    context = listening(made, ssl.TLSVersion.TLSv1_2)
    port = int(simulator.url.rpartition(":")[2])
    loop = asyncio.new_event_loop()
    lines: set[asyncio.Task[None]] = set()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
        sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(f"CONNECT {HOST}:443 ".encode()), head
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await writer.start_tls(context)
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, back), pump(there, writer), return_exceptions=True)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.add(asyncio.create_task(serve(reader, writer)))

    proxy = loop.run_until_complete(asyncio.start_server(accept, "127.0.0.1", 0))
    running = threading.Thread(target=loop.run_forever)
    running.start()
    try:
        yield {
            "HTTPS_PROXY": f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}",
            "REQUESTS_CA_BUNDLE": str(folder / "authority.pem"),
        }
    finally:
        loop.call_soon_threadsafe(loop.stop)
        running.join()
        proxy.close()
        loop.close()


def test_gpuhunt_finds_what_the_market_file_holds(
    programs: Path, simulator: Simulator, tmp_path: Path
) -> None:
    """Names, counts, prices of both kinds, capability: equal to the file, query by query."""
    rows = [row for row in market_file() if int(row["num_gpus"]) > 0]

    def of(names: tuple[str, ...], test: Callable[[Object], bool] = lambda _: True) -> list[Object]:
        return [row for row in rows if row["gpu_name"] in names and test(row)]

    queries: list[tuple[Object, list[Object]]] = [
        ({"gpu_name": ["RTX4090"]}, of(("RTX 4090",))),
        ({"gpu_name": ["V100"]}, of(("Tesla V100",))),
        ({"gpu_name": ["A100"]}, of(("A100 PCIE",))),
        ({"gpu_name": ["H100"]}, of(("H100 PCIE", "H100 SXM"))),
        ({"gpu_name": ["H200NVL"]}, of(("H200 NVL",))),
        (
            {"gpu_name": ["L40S"], "min_gpu_count": 2},
            of(("L40S",), lambda r: int(r["num_gpus"]) >= 2),
        ),
        (
            {"gpu_name": ["H200", "RTX4090"], "min_compute_capability": [9, 0]},
            of(("H200",)),
        ),
        (
            {"gpu_name": ["V100", "L40S"], "max_compute_capability": [8, 6]},
            of(("Tesla V100",)),
        ),
        (
            {"gpu_name": ["H200"], "extra": {"verified": {"eq": True}}},
            of(("H200",), lambda row: row["verification"] == "verified"),
        ),
        (
            {"gpu_name": ["RTX4090"], "min_gpu_memory": 48},
            of(("RTX 4090",), lambda r: int(r["gpu_ram_mib"]) >= 48 * 1024 * 0.93),
        ),
    ]
    with as_the_provider(simulator, tmp_path) as proxied:
        asked = "".join(json.dumps(query) + "\n" for query, _ in queries)
        done = subprocess.run(
            [programs / "python", SCRIPTS / "hunt.py"],
            input=asked,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            env=variables(tmp_path, **proxied),
            check=True,
        )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(queries)
    for (query, expected), found in zip(queries, answers, strict=True):
        assert 0 < len(expected) <= 64, query
        assert prices(found) == prices_in_the_file(expected), query


def prices(items: list[Object]) -> list[tuple[bool, int, float]]:
    """What was found: interruptible or not, GPUs, and the price at all of the disk."""
    return sorted((one["spot"], one["gpu_count"], one["price"]) for one in items)


def prices_in_the_file(rows: list[Object]) -> list[tuple[bool, int, float]]:
    """The same, worked out from the market file."""
    found = []
    for row in rows:
        disk = float(row["disk_space_gb"]) * float(row["storage_cost_gb_month"]) / 30 / 24
        for spot, base in ((False, row["dph_base"]), (True, row["min_bid"] or row["dph_base"])):
            if not spot or float(base):
                found.append((spot, int(row["num_gpus"]), round(float(base) + disk, 5)))
    return sorted(found)
