"""The API server, by the CRD's schema, and pydantic, by the models, admit the same specs.

Both come from one source, and neither reads it as the other does. Specs are generated from the
schema, most of them then spoilt in one place; what one side admits, the other must. Unknown fields
are dropped by both.
"""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.integration.parts import DryRuns

from gpujob.api.gpujob import GpuJobSpec
from gpujob.api.schema import GPUJOB, custom_resource_definition
from localcluster.control_plane import ControlPlane

Schema = dict[str, Any]
Place = tuple[str | int, ...]

JUNK: tuple[Any, ...] = (
    *("", " ", "x", "X" * 20_000, "1.5", "0", "NaN", "Ü", "a\nb"),
    *(-1, 0, 1, 65, 10**7, 2**53, 1.5, True, False),
    *([], {}, [{}], ["x"], [0], {"x": "y"}),
)
REMOVED = object()
ONLY_SERVER = (
    "Duplicate value",
    *(rule["message"] for rules in GPUJOB.rules.values() for rule in rules),
)
"""What the schema's rules refuse and the models do not: by their messages."""


def whole(schema: Schema) -> st.SearchStrategy[Any]:
    """Returns what a schema admits; long texts and lists only now and then."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        text = {key: schema[key] for key in ("pattern", "maxLength")} | {"type": "string"}
        return whole(text) | st.integers(schema["minimum"], schema["maximum"])
    match schema["type"]:
        case "object" if "additionalProperties" in schema:
            keys = st.sampled_from(("team", "example.com/team", "gpujob.dev/job"))
            return st.dictionaries(keys, whole(schema["additionalProperties"]), max_size=2)
        case "object":
            fields = {name: whole(child) for name, child in schema["properties"].items()}
            needed = schema.get("required", [])
            return st.fixed_dictionaries(
                {name: fields[name] for name in needed},
                optional={name: one for name, one in fields.items() if name not in needed},
            )
        case "array":
            least = schema.get("minItems", 0)
            return st.lists(whole(schema["items"]), min_size=least, max_size=least + 2)
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"])
        case "boolean":
            return st.booleans()
        case "string" if "pattern" in schema:
            texts = st.from_regex(schema["pattern"], fullmatch=True)
            return texts.filter(lambda text: len(text) <= schema["maxLength"])
        case "string":
            least, most = schema.get("minLength", 0), schema["maxLength"]
            short = st.text(st.characters(codec="ascii"), min_size=least, max_size=least + 8)
            return short | st.just("x" * most)
        case other:
            raise AssertionError(f"no values of type {other}")


def places(value: Any, path: Place = ()) -> Iterator[Place]:
    """Returns where a value could be spoilt."""
    children = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in children:
        yield (*path, key)
        if isinstance(child, (dict, list)):
            yield from places(child, (*path, key))


def heal(spec: Any) -> None:
    """Corrects what the schema admits and a rule does not."""
    cost, market = spec["cost"], spec.get("market", {})
    if "confidence" in cost and not 0.95 <= float(cost["confidence"]) <= 0.97:
        cost["confidence"] = "0.97"
    for holder, key in ((cost, "ceiling"), (market, "maxUSDPerHour")):
        if key in holder and float(holder[key]) == 0:
            holder[key] = "0.000001"
    for number, variable in enumerate(spec.get("env", [])):
        variable["name"] = f"{variable['name'][:200]}_{number}"
        if "valueFrom" in variable:
            variable.pop("value", None)
            sources = variable["valueFrom"]
            while len(sources) > 1:
                sources.popitem()
            if not sources:
                del variable["valueFrom"]


(VERSION,) = custom_resource_definition(GPUJOB)["spec"]["versions"]
WHOLE = whole(VERSION["schema"]["openAPIV3Schema"]["properties"]["spec"])
"""Made once: for each example anew it took most of the time."""


@st.composite
def specs(draw: st.DrawFn) -> Any:
    """Returns a spec that may be right."""
    spec = copy.deepcopy(draw(WHOLE))
    if draw(st.integers(0, 3)):
        heal(spec)
    if draw(st.booleans()):
        return spec
    *path, last = draw(st.sampled_from(sorted(places(spec), key=str)))
    holder = spec
    for key in path:
        holder = holder[key]
    junk = draw(st.sampled_from((REMOVED, *JUNK)))
    if junk is REMOVED:
        del holder[last]
    else:
        holder[last] = junk
    return spec


@pytest.fixture(scope="module")
def server(plane: ControlPlane) -> Iterator[DryRuns]:
    """The API server as an administrator reaches it."""
    asked = DryRuns(plane)
    yield asked
    asked.close()


def pydantic_refusals(spec: Any) -> list[str]:
    """Returns what the models hold against a spec as it is stored: nothing is converted."""
    try:
        GpuJobSpec.model_validate_json(json.dumps(spec), strict=True)
    except ValidationError as error:
        return [f"{one['loc']}: {one['msg']}" for one in error.errors()]
    return []


def test_both_admit_the_same(server: DryRuns, request: pytest.FixtureRequest) -> None:
    """Where only the server refuses, a rule of CEL does; pydantic alone refuses nothing."""
    admitted = 0

    @settings(
        max_examples=5000 if request.config.getoption("chaos") else 400,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        deadline=None,
        database=None,
        # What lands or not may not hang on luck.
        derandomize=not request.config.getoption("chaos"),
    )
    @given(specs())
    def check(spec: Any) -> None:
        nonlocal admitted
        body: Schema = {"apiVersion": "gpujob.dev/v1alpha1", "kind": "GpuJob"}
        body |= {"metadata": {"name": "job"}, "spec": spec}
        theirs = server.refusals(body, validation="Ignore")
        ours = pydantic_refusals(spec)
        by_rules = all(any(words in one for words in ONLY_SERVER) for one in theirs)
        admitted += not theirs
        assert bool(ours) == (bool(theirs) and not by_rules), f"server: {theirs}; models: {ours}"

    check()
    assert admitted > 30
