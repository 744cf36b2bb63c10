"""What kind of job a job is: the keys under which its figures are learnt."""

import json
from dataclasses import dataclass
from hashlib import sha256

from gpujob.api.gpujob import GpuJobSpec


@dataclass(frozen=True)
class Template:
    """What kind of job it is."""

    tenant: str
    keys: tuple[str, ...]
    """Most specific first. Each stands for one window of values, whoever asks with it."""

    @property
    def digests(self) -> str:
        """What kind of job it is, without the namespace."""
        template, program, namespace = self.keys
        return f"{template.removeprefix(namespace)[1:]}/{program.removeprefix(namespace)[1:]}"


def template_of(namespace: str, spec: GpuJobSpec) -> Template:
    """Returns the keys of a job: all that says how long it runs, what it runs, and its namespace.

    Every key names the namespace, so that nobody teaches the templates of another one.
    """
    program = {"image": spec.image, "command": spec.command, "args": spec.args}
    size = {
        "env": [(one.name, one.value) for one in spec.env if one.value is not None],
        "gpu": spec.gpu.model_dump(mode="json"),
        "inputs": [one.model_dump(mode="json") for one in spec.data.inputs],
        "workingDir": spec.working_dir,
    }
    template = _digest({**program, **size})
    return stored_template(
        namespace, f"{template}/{_digest({'image': spec.image, 'command': spec.command})}"
    )


def stored_template(namespace: str, digests: str) -> Template:
    """Returns the keys of a job of this kind in a namespace; `digests` as `Template.digests`."""
    template, _, program = digests.partition("/")
    return Template(namespace, (f"{namespace}/{template}", f"{namespace}/{program}", namespace))


def _digest(parts: object) -> str:
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
