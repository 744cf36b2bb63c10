"""What of a job's files and variables its driver pod is given."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import RECORDED, a_job, a_spec, node_observation
from tests.kubelet import variables

from gpujob.api.data import VARIABLE, DataPlan
from gpujob.api.transport import WORKLOAD_ENV_PREFIX
from gpujob.core.machine.driver_pod import driver_pod

DATA = {
    "inputs": [{"claimName": "sets", "subPath": "mnist", "path": "in/$(HOME)"}],
    "outputs": [
        {"claimName": "results", "path": "/workspace/out"},
        {"claimName": "results", "subPath": "plots", "path": "plots"},
    ],
    "checkpoint": {"claimName": "state", "path": "state", "intervalSeconds": 60},
    "log": {"claimName": "results", "subPath": "logs"},
    "maxDownloadGB": 3,
    "maxUploadGB": 2,
}


def pod(data: dict[str, Any]) -> dict[str, Any]:
    """The spec of the driver pod of a job with these files."""
    job = a_job(a_spec(data=data), RECORDED)
    spec: dict[str, Any] = driver_pod(node_observation(job=job))["spec"]
    return spec


def test_each_claim_is_one_volume_and_inputs_can_not_be_written() -> None:
    """However often it is used; a folder on it is mounted alone."""
    spec = pod(DATA)
    volumes = {
        one["name"]: one["persistentVolumeClaim"]["claimName"]
        for one in spec["volumes"]
        if "persistentVolumeClaim" in one
    }
    mounts = {
        one["mountPath"]: (volumes[one["name"]], one.get("subPath"), one.get("readOnly", False))
        for one in spec["containers"][0]["volumeMounts"]
        if one["name"] in volumes
    }

    assert sorted(volumes.values()) == ["results", "sets", "state"]
    assert mounts == {
        "/data/inputs-0": ("sets", "mnist", True),
        "/data/outputs-0": ("results", None, False),
        "/data/outputs-1": ("results", "plots", False),
        "/data/checkpoint": ("state", None, False),
        "/data/log": ("results", "logs", False),
    }


def test_what_is_copied_is_told_as_it_was_written() -> None:
    """The kubelet would put a variable's value in a path, if it were let."""
    plan = DataPlan.model_validate_json(variables(pod(DATA)["containers"][0])[VARIABLE])

    assert [copy.path for copy in plan.inputs] == ["in/$(HOME)"]
    assert [copy.path for copy in plan.outputs] == ["/workspace/out", "plots"]
    assert plan.checkpoint is not None
    assert (plan.checkpoint.folder, plan.checkpoint_seconds) == ("/data/checkpoint", 60)
    assert plan.log_folder == "/data/log"
    assert (plan.download_bytes_max, plan.upload_bytes_max) == (3 * 10**9, 2 * 10**9)


@pytest.mark.parametrize(
    ("working_dir", "path", "found"),
    [
        (None, "out", "out"),
        (None, "/out", "/out"),
        ("/workspace", "out/a", "/workspace/out/a"),
        ("/workspace/", "out", "/workspace/out"),
        ("/", "out", "/out"),
        ("/workspace", "/out", "/out"),
    ],
)
def test_a_relative_path_is_below_the_working_folder(
    working_dir: str | None, path: str, found: str
) -> None:
    """Where the command finds it, too; without one, the driver takes the image's."""
    claim = {"claimName": "c", "path": path}
    data = {"inputs": [claim], "outputs": [claim], "checkpoint": claim}
    job = a_job(a_spec(data=data, workingDir=working_dir), RECORDED)
    container = driver_pod(node_observation(job=job))["spec"]["containers"][0]
    plan = DataPlan.model_validate_json(variables(container)[VARIABLE])

    assert plan.checkpoint is not None
    copies = (*plan.inputs, *plan.outputs, plan.checkpoint)
    assert [copy.path for copy in copies] == [found] * 3
    assert plan.job == job.metadata.uid


def test_a_job_without_files_mounts_no_claim() -> None:
    """Nor is anything told of copying."""
    spec = pod({})

    assert not any("persistentVolumeClaim" in one for one in spec["volumes"])
    assert VARIABLE not in {one["name"] for one in spec["containers"][0]["env"]}


def seen_by_the_driver(**values: str) -> dict[str, str]:
    """Variables of a job, as its driver's process finds them under their names."""
    env = [{"name": name, "value": value} for name, value in values.items()]
    job = a_job(a_spec(env=env), RECORDED)
    container = driver_pod(node_observation(job=job))["spec"]["containers"][0]
    return {
        name.removeprefix(WORKLOAD_ENV_PREFIX): value
        for name, value in variables(container).items()
        if name.startswith(WORKLOAD_ENV_PREFIX)
    }


@pytest.mark.parametrize(
    "value",
    [
        *("pa$$word", "$$(X)", "$(A)", "$(GPUJOB_WORKLOAD_A)", "$$$(A)", "$", "$$", "x$", "$(A"),
        *("$é", "${A}", "$A", "$($(A))", "a\n$\n", "$()", "\\$(A)", "$\t(A)"),
    ],
)
def test_a_value_is_what_its_user_wrote(value: str) -> None:
    """The kubelet reads dollar signs, and passwords have them."""
    assert seen_by_the_driver(A="first", B=value)["B"] == value


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


@given(TEXT | st.text("$()AB_", max_size=20), TEXT)
def test_any_value_is_what_its_user_wrote(value: str, other: str) -> None:
    """Whatever stands in it and in the variables before it."""
    assert seen_by_the_driver(A=other, B=value) == {"A": other, "B": value}
