"""The API server, by the CRD's schema, and pydantic, by the models, admit the same specs.

Both come from one source, and neither reads it as the other does. Specs are generated from the
schema, most of them then spoilt in one place; what one side admits, the other must. Unknown fields
are dropped by both.
"""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.integration.parts import DryRuns

from gpujob.api.schema import GPUBUDGET, GPUJOB, Kind, custom_resource_definition
from localcluster.control_plane import ControlPlane

Schema = dict[str, Any]
Place = tuple[str | int, ...]

JUNK: tuple[Any, ...] = (
    *("", " ", "x", "X" * 20_000, "1.5", "0", "NaN", "Ü", "a\nb"),
    *(-1, 0, 1, 65, 10**7, 2**53, 1.5, True, False),
    *([], {}, [{}], ["x"], [0], {"x": "y"}),
)
REMOVED = object()


def whole(schema: Schema) -> st.SearchStrategy[Any]:
    """Returns what a schema admits; long texts and lists only now and then."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        text = {key: schema[key] for key in ("pattern", "maxLength")} | {"type": "string"}
        return whole(text) | st.integers(schema["minimum"], schema["maximum"])
    match schema["type"]:
        case "object" if "additionalProperties" in schema:
            keys = st.sampled_from(("team", "example.com/team", "gpujob.dev/job", "not a key"))
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


def heal_job(spec: Any) -> None:
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


def heal_budget(spec: Any) -> None:
    """Corrects what the schema admits and a rule does not."""
    if float(spec["limit"]) == 0:
        spec["limit"] = "0.000001"
    if spec["period"] == "Rolling":
        spec.setdefault("rollingHours", 24)
    else:
        spec.pop("rollingHours", None)
    for term in spec.get("selector", {}).get("matchExpressions", []):
        if term["operator"] in ("In", "NotIn"):
            term["values"] = term.get("values") or ["vision"]
        else:
            term.pop("values", None)


@dataclass(frozen=True)
class Case:
    """A kind whose specs are compared."""

    kind: Kind
    heal: Callable[[Any], None]
    only_server: tuple[str, ...]
    """What the schema's rules refuse and the models do not: by their messages."""

    def specs(self) -> st.SearchStrategy[Any]:
        """Returns specs that may be right."""
        (version,) = custom_resource_definition(self.kind)["spec"]["versions"]
        # Made once: for each spec anew it took most of the time.
        right = whole(version["schema"]["openAPIV3Schema"]["properties"]["spec"])

        @st.composite
        def maybe_spoilt(draw: st.DrawFn) -> Any:
            spec = copy.deepcopy(draw(right))
            if draw(st.integers(0, 3)):
                self.heal(spec)
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

        return maybe_spoilt()


def messages(kind: Kind, path: str = "") -> tuple[str, ...]:
    """Returns what the rules of a kind say, of the fields below a path."""
    return tuple(
        rule["message"] for at, rules in kind.rules.items() if at.startswith(path) for rule in rules
    )


CASES = {
    "GpuJob": Case(GPUJOB, heal_job, ("Duplicate value", *messages(GPUJOB))),
    # Whether there is money at all is told by the ledger.
    "GpuBudget": Case(GPUBUDGET, heal_budget, messages(GPUBUDGET, "spec.limit")),
}


@pytest.fixture(scope="module")
def server(plane: ControlPlane) -> Iterator[DryRuns]:
    """The API server as an administrator reaches it."""
    asked = DryRuns(plane)
    yield asked
    asked.close()


def pydantic_refusals(kind: Kind, spec: Any) -> list[str]:
    """Returns what the models hold against a spec as it is stored: nothing is converted."""
    try:
        kind.spec.model_validate_json(json.dumps(spec), strict=True)
    except ValidationError as error:
        return [f"{one['loc']}: {one['msg']}" for one in error.errors()]
    return []


@pytest.mark.parametrize("name", CASES)
def test_both_admit_the_same(server: DryRuns, name: str, request: pytest.FixtureRequest) -> None:
    """Where only the server refuses, a rule of CEL does; pydantic alone refuses nothing."""
    case, admitted = CASES[name], 0

    @settings(
        max_examples=5000 if request.config.getoption("chaos") else 400,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        deadline=None,
        database=None,
        # What lands or not may not hang on luck.
        derandomize=not request.config.getoption("chaos"),
    )
    @given(case.specs())
    def check(spec: Any) -> None:
        nonlocal admitted
        body: Schema = {"apiVersion": "gpujob.dev/v1alpha1", "kind": name}
        body |= {"metadata": {"name": "one"}, "spec": spec}
        theirs = server.refusals(body, validation="Ignore")
        ours = pydantic_refusals(case.kind, spec)
        by_rules = all(any(words in one for words in case.only_server) for one in theirs)
        admitted += not theirs
        assert bool(ours) == (bool(theirs) and not by_rules), f"server: {theirs}; models: {ours}"

    check()
    assert admitted > 30
