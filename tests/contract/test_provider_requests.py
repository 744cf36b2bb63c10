"""Requests as other clients were recorded to send them, and ones that nobody should send, against
the simulator: each is done, or refused in the provider's own form.
"""

import http.client
import json
import os
import socket
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.parts import KEY, Simulator, eventually

Object = dict[str, Any]
ORDER = [["dph_total", "asc"]]
SKYPILOT_SEARCH = {
    "verified": {"eq": True},
    "external": {"eq": False},
    "rentable": {"eq": True},
    "order": [["score", "desc"]],
    "type": "on-demand",
    "allocated_storage": 5.0,
}
DSTACK_SEARCH = {
    "cpu_cores": {"gte": 2},
    "cpu_ram": {"gte": 8000},
    "num_gpus": {"gte": 1, "lte": 1},
    "gpu_name": {"in": ["RTX 4090"]},
    "gpu_ram": {"gte": 22855.68},
    "disk_space": {"gte": 100},
    "datacenter": {"eq": True},
    "rentable": {"eq": True},
    "rented": {"eq": False},
    "order": [["score", "desc"]],
    "direct_port_count": {"gte": 1},
    "reliability2": {"gte": 0.9},
    "inet_down": {"gt": 128},
    "verified": {"eq": True},
    "cuda_max_good": {"gte": 12.8},
    "compute_cap": {"gte": 600},
}
DSTACK_RENT = {
    "client_id": "me",
    "image": "img",
    "price": None,
    "disk": 10,
    "label": "lab",
    "env": {"-p 10022:10022": "1"},
    "user": "root",
    "onstart": "/bin/sh",
    "args": ["-c", "sleep 1000"],
    "runtype": "args",
    "image_login": None,
    "python_utf8": False,
    "lang_utf8": False,
    "use_jupyter_lab": False,
    "jupyter_dir": None,
    "create_from": None,
    "force": False,
}
OFFICIAL_RENT = {
    "client_id": "me",
    "image": "nvidia/cuda:12.4.1-base-ubuntu22.04",
    "env": {"A": "b", "-p 8000:8000": "1"},
    "price": None,
    "disk": 30.0,
    "label": "L1",
    "extra": None,
    "onstart": "echo hi",
    "image_login": None,
    "python_utf8": False,
    "lang_utf8": False,
    "use_jupyter_lab": False,
    "jupyter_dir": None,
    "force": False,
    "cancel_unavail": False,
    "template_hash_id": None,
    "user": None,
    "runtype": "ssh_direc ssh_proxy",
}


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """One simulator for all tests here; a market of its own is given to none."""
    running = Simulator(tmp_path_factory.mktemp("provider"))
    running.start()
    yield running
    running.stop()


def say(
    provider: Simulator, method: str, path: str, body: object = None, **headers: str
) -> tuple[int, Any]:
    """Sends a request, bytes as they are; returns the status and the answer."""
    address = urllib.parse.urlsplit(provider.url)
    assert address.hostname, provider.url
    line = http.client.HTTPConnection(address.hostname, address.port, timeout=20)
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    sent = {"Authorization": f"Bearer {KEY}"} | {k.replace("_", "-"): v for k, v in headers.items()}
    try:
        line.request(method, path, data, {k: v for k, v in sent.items() if v})
        answer = line.getresponse()
        raw = answer.read()
        # Exactly so: the official command line shows nothing under any other type.
        assert answer.headers["Content-Type"] == "application/json", raw
        return answer.status, json.loads(raw)
    finally:
        line.close()


def refusal(provider: Simulator, method: str, path: str, body: object, **headers: str) -> str:
    """Returns the code of a refusal, which must have the provider's form."""
    status, answer = say(provider, method, path, body, **headers)
    assert 400 <= status < 500, answer
    assert answer["success"] is False, answer
    assert isinstance(answer["msg"], str), answer
    return str(answer["error"])


def offers(provider: Simulator, **query: object) -> list[Object]:
    """Searches as anybody may, without a key."""
    status, answer = say(provider, "POST", "/api/v0/bundles/", query, Authorization="")
    assert status == 200, answer
    found: list[Object] = answer["offers"]
    return found


def rented(provider: Simulator, body: Object) -> int:
    """Rents the cheapest offer."""
    (offer,) = offers(provider, order=ORDER, limit=1, num_gpus={"eq": 1}, disk_space={"gte": 30})
    status, answer = say(provider, "PUT", f"/api/v0/asks/{offer['id']}/", body)
    assert (status, answer["success"]) == (200, True), answer
    return int(answer["new_contract"])


def shown(provider: Simulator, number: int) -> Object:
    """One instance, as dstack asks for it."""
    found: Object = say(provider, "GET", f"/api/v0/instances/{number}/")[1]["instances"]
    return found


def test_skypilot_finds_and_rents(provider: Simulator) -> None:
    """Its fields are there; its bid of nothing is below the lowest that is allowed."""
    found = offers(provider, **SKYPILOT_SEARCH)
    fields = ("num_gpus", "gpu_name", "min_bid", "geolocation", "hosting_type", "gpu_total_ram")
    assert len(found) == 64
    assert all(row[name] is not None for row in found for name in (*fields, "cpu_ram", "cpu_cores"))
    assert all(row["search"]["totalHour"] == row["dph_total"] for row in found)
    body = {key: value for key, value in OFFICIAL_RENT.items() if key != "runtype"}
    body |= {"env": {"__SOURCE": "skypilot"}, "label": "c-head", "onstart": "touch ~/.no_auto_tmux"}
    path = f"/api/v0/asks/{found[0]['id']}/"
    assert refusal(provider, "PUT", path, body | {"price": 0}) == "invalid_price"

    number = rented(provider, body)
    eventually("it runs", lambda: shown(provider, number)["actual_status"] == "running")
    rows = say(provider, "GET", "/api/v1/instances/?limit=25")[1]["instances"]
    (row,) = (row for row in rows if row["label"] == "c-head")
    assert (row["image_runtype"], row["extra_env"]) == ("ssh", [["__SOURCE", "skypilot"]])
    assert "22/tcp" not in row["ports"]
    assert isinstance(row["ssh_port"], int)
    assert say(provider, "DELETE", f"/api/v0/instances/{number}/", {})[1]["success"] is True


def test_dstack_finds_and_rents(provider: Simulator) -> None:
    """Without a key it searches; its port is mapped; its destroy has no body."""
    found = offers(provider, **DSTACK_SEARCH)
    assert found
    assert all(row["cuda_max_good"] >= 12.8 and row["compute_cap"] == 890 for row in found)
    assert all(row["hosting_type"] == 1 and row["verification"] == "verified" for row in found)
    number = rented(provider, DSTACK_RENT)
    eventually("it runs", lambda: shown(provider, number)["actual_status"] == "running")
    row = shown(provider, number)
    assert row["ports"]["10022/tcp"][0]["HostPort"].isdecimal()
    assert (row["image_args"], row["image_runtype"]) == (["-c", "sleep 1000"], "args")
    assert say(provider, "DELETE", f"/api/v0/instances/{number}/")[0] == 200
    gone = say(provider, "DELETE", f"/api/v0/instances/{number}/")
    assert (gone[0], gone[1]["error"]) == (404, "no_such_instance")
    assert say(provider, "GET", f"/api/v0/instances/{number}/") == (200, {"instances": None})


def test_a_program_that_the_image_lacks_is_a_failure_of_the_engine(provider: Simulator) -> None:
    """dstack takes such words in a created machine for a failure."""
    number = rented(provider, DSTACK_RENT | {"onstart": "/opt/nothing"})
    eventually("it failed", lambda: shown(provider, number)["actual_status"] == "created")
    assert ": OCI runtime create failed:" in shown(provider, number)["status_msg"]
    assert say(provider, "DELETE", f"/api/v0/instances/{number}/")[0] == 200


def test_all_forms_of_a_search_find_the_same(provider: Simulator) -> None:
    """POST, GET and PUT; with and without a slash; numbers as numbers or as text; both names."""
    query = {"gpu_name": {"eq": "H200"}, "num_gpus": {"eq": 1}, "reliability": {"gt": 0.9}}
    as_text = {"gpu_name": {"eq": "H200"}, "num_gpus": {"eq": "1"}, "reliability2": {"gt": "0.9"}}
    numbers = [row["id"] for row in offers(provider, **query)]
    assert numbers
    assert [row["id"] for row in offers(provider, **as_text)] == numbers
    quoted = urllib.parse.quote(json.dumps(query))
    for method, path, body in (
        ("POST", "/api/v0/bundles", query),
        ("GET", f"/api/v0/bundles/?q={quoted}", None),
        ("GET", f"/api/v0/bundles?q={quoted}", None),
        ("PUT", "/api/v0/search/asks/", {"select_cols": ["*"], "q": query}),
    ):
        status, answer = say(provider, method, path, body, Authorization="")
        assert status == 200, answer
        assert [row["id"] for row in answer["offers"]] == numbers
    names = {"select_cols": ["id", "nonsense"], "q": query}
    assert say(provider, "PUT", "/api/v0/search/asks/", names)[1]["offers"][0] == {
        "id": numbers[0],
        "nonsense": None,
    }


def test_an_offer_shows_all_that_a_captured_one_showed(provider: Simulator) -> None:
    """Under the same names, and numbers where there were numbers."""
    captured = """ask_contract_id avail_vol_ask_id avail_vol_dph avail_vol_size bundle_id
    bundled_results bw_nvlink cluster_id compute_cap cpu_arch cpu_cores cpu_cores_effective cpu_ghz
    cpu_name cpu_ram credit_discount_max cuda_max_good direct_port_count discount_rate
    discounted_dph_total discounted_hourly disk_bw disk_name disk_space dlperf dlperf_per_dphtotal
    dph_base dph_total dph_total_adj driver_vers driver_version duration end_date
    expected_reliability external flops_per_dphtotal geolocation geolocode gpu_arch
    gpu_display_active gpu_frac gpu_ids gpu_lanes gpu_max_power gpu_max_temp gpu_mem_bw gpu_name
    gpu_ram gpu_total_ram has_avx host_id hosting_type hostname id inet_down inet_down_cost inet_up
    inet_up_cost instance internet_down_cost_per_tb internet_up_cost_per_tb is_bid is_vm_deverified
    logo machine_id min_bid mobo_name num_gpus nw_disk_avg_bw nw_disk_max_bw nw_disk_min_bw
    os_version pci_gen pcie_bw platform_fee public_ipaddr reliability reliability2 reliability_mult
    rentable rented resource_type rn score search start_date static_ip storage_cost
    storage_total_cost time_remaining time_remaining_isbid total_flops verification vericode
    vms_enabled vram_costperhour webpage"""
    (row,) = offers(provider, limit=1)
    assert set(captured.split()) == set(row)
    assert row["dph_total"] == pytest.approx(row["dph_base"] + row["storage_cost"] * 8 / 720)
    assert row["vram_costperhour"] == pytest.approx(row["dph_base"] / (row["gpu_total_ram"] / 1024))


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"image": None}, "invalid_args"),
        ({"image": "a b"}, "invalid_args"),
        ({"image": "x" * 1025}, "invalid_args"),
        ({"image": ["x"]}, "invalid_args"),
        ({"disk": 7.9}, "invalid_args"),
        ({"disk": 1e9}, "invalid_args"),
        ({"disk": "much"}, "invalid_args"),
        ({"disk": True}, "invalid_args"),
        ({"label": "x" * 257}, "label_too_long"),
        ({"label": 5}, "invalid_args"),
        ({"price": 0.0001}, "invalid_price"),
        ({"price": 129}, "invalid_price"),
        ({"price": "dear"}, "invalid_args"),
        ({"env": {"A" * 257: "b"}}, "invalid_args"),
        ({"env": {"A": "b" * 32_768}}, "invalid_args"),
        ({"env": {f"-p {port}:{port}": "1" for port in range(1000, 1065)}}, "invalid_args"),
        ({"env": {"-p 0:0": "1"}}, "invalid_args"),
        ({"env": {"-p 8000-8010:8000-8010": "1"}}, "invalid_args"),
        ({"env": {"-v data:/data": "1"}}, "invalid_args"),
        ({"env": {"--privileged": "1"}}, "invalid_args"),
        ({"env": [["A", "b"]]}, "invalid_args"),
        ({"onstart": "x" * 4049}, "invalid_args"),
        ({"runtype": "args", "args": ["x" * 4097]}, "invalid_args"),
        ({"runtype": "args", "onstart": "echo 'unfinished"}, "invalid_args"),
        ({"args": ["-c", "true"]}, "invalid_args"),
        ({"runtype": "jupyter_direc ssh_direc ssh_proxy"}, "invalid_args"),
        ({"runtype": "jupyter_proxy ssh_proxy"}, "invalid_args"),
        ({"runtype": "jupyter"}, "invalid_args"),
        ({"runtype": "sh"}, "invalid_args"),
        ({"use_jupyter_lab": True}, "invalid_args"),
        ({"template_hash_id": "4e17788f74f075dd9aab7d0d4427968f"}, "invalid_args"),
        ({"template_id": 7}, "invalid_args"),
        ({"volume_info": {"mount_path": "/v", "create_new": True}}, "invalid_args"),
        ({"extra": "--shm-size 1g"}, "invalid_args"),
        ({"vm": True}, "invalid_args"),
        ({"user": "nobody"}, "invalid_args"),
        ({"image_login": "bob"}, "invalid_args"),
        ({"target_state": "frozen"}, "invalid_args"),
        ({"force": "yes"}, "invalid_args"),
        ({"onstart_cmd": "echo hi"}, "invalid_args"),
    ],
)
def test_what_cannot_be_done_is_not_rented(provider: Simulator, body: Object, error: str) -> None:
    """Nothing is dropped without a word, and nothing is rented by the way."""
    before = len(provider.ledger())
    (offer,) = offers(provider, order=ORDER, limit=1)
    path = f"/api/v0/asks/{offer['id']}/"
    assert refusal(provider, "PUT", path, OFFICIAL_RENT | body) == error
    assert len(provider.ledger()) == before


ECHOES = """
import os, socket, threading
datagrams = socket.socket(type=socket.SOCK_DGRAM)
datagrams.bind(("127.0.0.1", 18537))
streams = socket.socket()
streams.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
streams.bind(("127.0.0.1", int(os.environ["VAST_TCP_PORT_70001"])))
streams.listen()
def echo():
    while True:
        data, caller = datagrams.recvfrom(1000)
        datagrams.sendto(data + os.environ["VAST_UDP_PORT_18537"].encode(), caller)
threading.Thread(target=echo).start()
while True:
    line, _ = streams.accept()
    line.sendall(b"the same outside and inside")
    line.close()
"""


def test_what_comes_to_a_port_reaches_the_program(provider: Simulator) -> None:
    """Datagrams and their answers; streams at a port that has one number on both sides."""
    body = DSTACK_RENT | {
        "env": {"-p 18537:18537/udp": "1", "-p 70001:70001": "1"},
        "onstart": "python3",
        "args": ["-c", ECHOES],
    }
    number = rented(provider, body)
    eventually("it runs", lambda: shown(provider, number)["actual_status"] == "running")
    ports = shown(provider, number)["ports"]
    outside = int(ports["18537/udp"][0]["HostPort"])
    (same,) = (int(name.partition("/")[0]) for name in ports if name.endswith("/tcp"))

    def answered() -> bool:
        with socket.socket(type=socket.SOCK_DGRAM) as caller:
            caller.settimeout(1)
            caller.sendto(b"seen at ", ("127.0.0.1", outside))
            try:
                return caller.recv(1000) == f"seen at {outside}".encode()
            except TimeoutError:
                return False

    eventually("a datagram comes back", answered)
    with socket.create_connection(("127.0.0.1", same), timeout=20) as line:
        assert line.recv(1000) == b"the same outside and inside"
    say(provider, "PUT", f"/api/v0/instances/{number}/", {"state": "stopped"})
    assert shown(provider, number)["ports"] == {}
    assert not answered()
    say(provider, "PUT", f"/api/v0/instances/{number}/", {"state": "running"})
    eventually("it runs", lambda: shown(provider, number)["actual_status"] == "running")
    assert shown(provider, number)["ports"] == ports
    eventually("a datagram comes back", answered)
    say(provider, "DELETE", f"/api/v0/instances/{number}/")


def test_flags_of_docker_may_be_the_environment(provider: Simulator) -> None:
    """As text, and identical ports under a number that no port has."""
    text = "-e A=b -p 8000:8000/udp -p 70000:70000"
    number = rented(provider, OFFICIAL_RENT | {"env": text, "disk": 10})
    eventually("it runs", lambda: shown(provider, number)["actual_status"] == "running")
    row = shown(provider, number)
    outside = next(name for name in row["ports"] if name not in ("22/tcp", "8000/udp"))
    assert row["ports"][outside][0]["HostPort"] + "/tcp" == outside
    assert ["A", "b"] in row["extra_env"]
    say(provider, "DELETE", f"/api/v0/instances/{number}/")


def test_a_machine_may_be_rented_stopped(provider: Simulator) -> None:
    """It has a disk, and runs when it is told to."""
    number = rented(provider, OFFICIAL_RENT | {"target_state": "stopped", "disk": 10})
    assert shown(provider, number)["intended_status"] == "stopped"
    say(provider, "PUT", f"/api/v0/instances/{number}/", {"state": "running"})
    eventually("it runs", lambda: shown(provider, number)["actual_status"] == "running")
    say(provider, "DELETE", f"/api/v0/instances/{number}/")


def test_bulk_rents_tell_of_each_offer(provider: Simulator) -> None:
    """One is gone, the others are rented; then all are destroyed at once."""
    found = offers(provider, order=ORDER, limit=2, num_gpus={"eq": 1}, disk_space={"gte": 30})
    ids = [found[0]["id"], 1, found[1]["id"]]
    body = {**OFFICIAL_RENT, "ids": ids}
    status, answer = say(provider, "POST", "/api/v0/asks/bulk/", body)
    assert status == 200
    assert [one["success"] for one in answer["results"]] == [True, False, True]
    assert "no_such_ask" in answer["results"][1]["msg"]
    made = [one["new_contract"] for one in answer["results"] if one["success"]]
    states = {"state": "stopped", "ids": made}
    assert say(provider, "PUT", "/api/v0/instances/", states) == (200, {"success": True})
    wrong = {"instance_ids": [*made, 1]}
    assert refusal(provider, "DELETE", "/api/v0/instances/", wrong) == "no_such_instance"
    assert {shown(provider, one)["cur_state"] for one in made} == {"stopped"}
    assert say(provider, "DELETE", "/api/v0/instances/", {"instance_ids": made})[0] == 200
    assert [shown(provider, one) for one in made] == [None, None]


def test_a_listing_pages_sorts_and_filters(provider: Simulator) -> None:
    """By stored columns only, whose number breaks ties; a token is of its listing."""
    made = [rented(provider, OFFICIAL_RENT | {"disk": 10, "label": f"p{n % 2}"}) for n in range(4)]

    def listed(**query: object) -> tuple[int, Any]:
        parts = {name: json.dumps(value) for name, value in query.items()}
        return say(provider, "GET", f"/api/v1/instances/?{urllib.parse.urlencode(parts)}")

    def token_of(answer: Any) -> str:
        return urllib.parse.quote(answer["next_token"])

    mine = {"label": {"in": ["p0", "p1"]}}
    eventually("they are listed", lambda: len(listed(select_filters=mine)[1]["instances"]) == 4)
    order = [{"col": "label", "dir": "desc"}]
    pages, path = [], "/api/v1/instances/?limit=1"
    path += f"&select_filters={urllib.parse.quote(json.dumps(mine))}"
    path += f"&order_by={urllib.parse.quote(json.dumps(order))}"
    answer = say(provider, "GET", path)[1]
    while True:
        pages += [(row["label"], row["id"]) for row in answer["instances"]]
        if not answer["next_token"]:
            break
        answer = say(provider, "GET", f"{path}&after_token={token_of(answer)}")[1]
    assert pages == [("p1", made[1]), ("p1", made[3]), ("p0", made[0]), ("p0", made[2])]
    assert answer["total_instances"] == 4
    assert answer["label_counts"] == {"p0": 2, "p1": 2}
    assert len(listed(select_filters=mine, limit=0)[1]["instances"]) == 4
    columns = listed(select_filters=mine, select_cols=["id", "nonsense"])[1]["instances"]
    assert set(columns[0]) == {"id", "nonsense"}
    wrongs: tuple[Object, ...] = (
        {"select_filters": {"dph_total": {"lt": 1}}},
        {"select_filters": {"num_gpus": {"eq": 1}}},
        {"select_filters": {"label": "p0"}},
        {"select_filters": {"label": {"in": "p0"}}},
        {"select_filters": {"label": {"like": "p"}}},
        {"select_filters": []},
        {"order_by": [{"col": "dph_total"}]},
        {"order_by": "id"},
        {"select_cols": "id"},
    )
    for wrong in wrongs:
        status, answer = listed(**wrong)
        assert (status, answer["error"]) == (400, "invalid_request"), wrong
    for token in ("nonsense", "e30=", "eyJ2YWx1ZXMiOnsiaWQiOnt9fX0="):
        path = f"/api/v1/instances/?after_token={urllib.parse.quote(token)}"
        assert refusal(provider, "GET", path, None) == "invalid_token"
    say(provider, "DELETE", "/api/v0/instances/", {"instance_ids": made})


def test_commands_are_few_and_run_on_the_machine(provider: Simulator) -> None:
    """ls, rm and du; nothing that a shell would make of them."""
    body = OFFICIAL_RENT | {"disk": 10, "onstart": "touch /seen /gone; rm -f /ready; touch /ready"}
    number = rented(provider, body)
    eventually("it runs", lambda: shown(provider, number)["actual_status"] == "running")
    path = f"/api/v0/instances/command/{number}/"

    def said(command: str) -> str:
        status, answer = say(provider, "PUT", path, {"command": command})
        assert status == 200, answer
        return result(answer["result_url"])

    eventually("it is set up", lambda: "ready" in said("ls /"))
    assert "seen" in said("ls /")
    said("rm /gone")
    assert {"seen", "gone"} & set(said("ls /").split()) == {"seen"}
    assert "No such file" in said("ls /;id")
    for wrong in ("id", "bash -c ls", "/bin/ls", "", "ls 'x", "ls " + "x" * 510, None, ["ls"]):
        assert refusal(provider, "PUT", path, {"command": wrong}) == "invalid_args"
    assert say(provider, "PUT", path, b"{")[0] == 483
    say(provider, "PUT", f"/api/v0/instances/{number}/", {"state": "stopped"})
    assert refusal(provider, "PUT", path, {"command": "ls"}) == "invalid_args"
    reboot = f"/api/v0/instances/reboot/{number}/"
    assert refusal(provider, "PUT", reboot, {}) == "invalid_args"
    say(provider, "DELETE", f"/api/v0/instances/{number}/")


def result(url: str) -> str:
    """Fetches what was requested, without a key; at first it is not there."""
    address = urllib.parse.urlsplit(url)
    assert address.hostname, url

    def fetched() -> tuple[int, str]:
        line = http.client.HTTPConnection(str(address.hostname), address.port, timeout=20)
        line.request("GET", address.path)
        answer = line.getresponse()
        said = answer.status, answer.read().decode()
        line.close()
        return said

    assert fetched()[0] == 404
    eventually("the result is there", lambda: fetched()[0] == 200)
    return fetched()[1]


def test_keys_come_and_go(provider: Simulator) -> None:
    """Of the account, for what is rented from then on; of one instance, at once."""
    first, second = (f"ssh-ed25519 AAAA{n} someone" for n in range(2))
    key = say(provider, "POST", "/api/v0/ssh/", {"ssh_key": first})[1]["key"]
    assert key["key"] == key["public_key"] == first
    assert "duplicate" in say(provider, "POST", "/api/v0/ssh/", {"ssh_key": f"{first}\n"})[1]["msg"]
    number = rented(provider, OFFICIAL_RENT | {"disk": 10})
    path = f"/api/v0/instances/{number}/ssh/"
    assert say(provider, "POST", path, {"ssh_key": second})[1]["success"] is True
    held = json.loads(say(provider, "GET", path)[1]["ssh_keys"])
    assert [one["public_key"] for one in held] == [first, second]
    assert say(provider, "DELETE", f"{path}{held[1]['id']}/", {})[1]["success"] is True
    assert refusal(provider, "DELETE", f"{path}{held[1]['id']}/", {}) == "no_such_ssh_key"
    change = {"id": key["id"], "ssh_key": second}
    assert say(provider, "PUT", f"/api/v0/ssh/{key['id']}/", change)[1]["success"] is True
    assert say(provider, "GET", "/api/v0/ssh/")[1][0]["key"] == second
    assert say(provider, "DELETE", f"/api/v0/ssh/{key['id']}/", {})[1]["success"] is True
    gone = say(provider, "DELETE", f"/api/v0/ssh/{key['id']}/", {})
    assert (gone[0], gone[1]["error"]) == (400, "no_ssh_key")
    assert say(provider, "GET", "/api/v0/ssh/")[0] == 404
    say(provider, "DELETE", f"/api/v0/instances/{number}/")


HOSTILE: list[tuple[str, str, object]] = [
    ("POST", "/api/v0/bundles/", b"{"),
    ("POST", "/api/v0/bundles/", b"[]"),
    ("POST", "/api/v0/bundles/", b"\xff\xfe"),
    ("POST", "/api/v0/bundles/", b"[" * 100_000),
    ("POST", "/api/v0/bundles/", b'{"q":' * 50_000),
    ("POST", "/api/v0/bundles/", b'{"num_gpus":{"eq":NaN}}'),
    ("POST", "/api/v0/bundles/", b'{"limit":' + b"9" * 5000 + b"}"),
    ("POST", "/api/v0/bundles/", b" " * (1 << 20) + b"{}"),
    ("POST", "/api/v0/bundles/", {"gpu_name": "RTX 4090"}),
    ("POST", "/api/v0/bundles/", {"gpu_name": {"like": "RTX"}}),
    ("POST", "/api/v0/bundles/", {"gpu_nmae": {"eq": "RTX 4090"}}),
    ("POST", "/api/v0/bundles/", {"gpu_name": {"in": "RTX 4090"}}),
    ("POST", "/api/v0/bundles/", {"limit": "many"}),
    ("POST", "/api/v0/bundles/", {"limit": -1}),
    ("POST", "/api/v0/bundles/", {"allocated_storage": 1e300}),
    ("POST", "/api/v0/bundles/", {"allocated_storage": {"gte": 1}}),
    ("POST", "/api/v0/bundles/", {"order": "score"}),
    ("POST", "/api/v0/bundles/", {"order": [["score"]]}),
    ("POST", "/api/v0/bundles/", {"order": [["nonsense", "asc"]]}),
    ("POST", "/api/v0/bundles/", {"order": [["search", "asc"], ["gpu_ids", "asc"]]}),
    ("POST", "/api/v0/bundles/", {"type": "gift"}),
    ("POST", "/api/v0/bundles/", {"type": ["bid"]}),
    ("GET", "/api/v0/bundles/?q=[]", None),
    ("GET", "/api/v0/bundles/?q={", None),
    ("PUT", "/api/v0/search/asks/", {"q": []}),
    ("PUT", "/api/v0/asks/x/", {}),
    ("PUT", "/api/v0/asks/-1/", {}),
    ("PUT", f"/api/v0/asks/{'9' * 4000}/", {}),
    ("PUT", "/api/v0/launch_instance/", {"image": "x", "q": {"gpu_name": {"eq": "none"}}}),
    ("POST", "/api/v0/asks/bulk/", {"image": "x", "ids": "1"}),
    ("POST", "/api/v0/asks/bulk/", {"image": "x", "ids": [1] * 65}),
    ("GET", "/api/v1/instances/?limit=x", None),
    ("GET", "/api/v1/instances/?limit=1e999", None),
    ("GET", "/api/v1/instances/?select_cols=[{}]", None),
    ("PUT", "/api/v0/instances/1/", {"state": "stopped"}),
    ("PUT", "/api/v0/instances/", {"state": "stopped", "ids": []}),
    ("DELETE", "/api/v0/instances/", {}),
    ("GET", "/api/v0/charges/", None),
    ("GET", "/api/v0/charges/?select_filters={%22day%22:{%22gte%22:%22x%22}}", None),
    ("GET", "/api/v0/users/me/invoices", None),
    ("POST", "/api/v0/contracts/fetch/", {"contract_ids": 5}),
    ("POST", "/api/v0/ssh/", {"ssh_key": "ssh-ed25519 AAAA\nssh-ed25519 BBBB"}),
    ("POST", "/api/v0/ssh/", {"ssh_key": "~/.ssh/id_ed25519.pub"}),
    ("POST", "/api/v0/template/", {"image": "x"}),
    ("PUT", "/api/v0/volumes/", {"id": 1, "size": 10}),
    ("PATCH", "/api/v0/instances/", {}),
    ("GET", "/api/v0/nothing/", None),
    ("GET", "/api/v9/instances/", None),
    ("GET", "/", None),
    ("GET", "/%00%ff/..//..", None),
]


@pytest.mark.parametrize(("method", "path", "body"), HOSTILE)
def test_what_nobody_should_send_is_refused(
    provider: Simulator, method: str, path: str, body: object
) -> None:
    """In the provider's form, with a status that says whose fault it is."""
    status, answer = say(provider, method, path, body)
    assert 400 <= status < 500, answer
    assert isinstance(answer.get("msg"), str), answer
    assert len(answer["msg"]) < 500
    if "charges" not in path:
        assert answer["success"] is False


def test_credentials(provider: Simulator) -> None:
    """A wrong key is 404, none is 403; an old client's key is in its query."""
    wrong = say(provider, "GET", "/api/v1/instances/", None, Authorization="Bearer x")
    assert (wrong[0], wrong[1]["error"]) == (404, "auth_error")
    missing = say(provider, "GET", "/api/v1/instances/", None, Authorization="")
    assert (missing[0], missing[1]["error"]) == (403, "auth_error")
    old = say(provider, "GET", f"/api/v1/instances/?api_key={KEY}", None, Authorization="")
    assert old[0] == 200
    day = say(provider, "GET", "/api/v1/invoices/")
    assert day == (200, {"success": False, "error": "Invalid date range"})


def test_random_bytes_never_break_it(provider: Simulator, tmp_path: Path) -> None:
    """A hundred bodies of noise on every kind of path."""
    paths = ("/api/v0/bundles/", "/api/v0/asks/1/", "/api/v0/instances/1/", "/api/v0/ssh/")
    for count in range(100):
        method = "POST" if count % 2 else "PUT"
        status, _ = say(provider, method, paths[count % 4], os.urandom(count * 37))
        assert status != 500
