"""Checks a job that was sent to the API, before it is created or estimated."""

from gpujob.adapters.kube import Body
from gpujob.api.meta import API_VERSION
from gpujob.core.admission import review
from gpujob.core.spec_faults import mark_faults, place_faults
from gpujob.server.http_api.bodies import NewJob, refused
from gpujob.server.http_api.dependencies import Backend
from gpujob.web.problems import Problem


def object_of(asked: NewJob, namespace: str, backend: Backend) -> tuple[Body, tuple[str, ...]]:
    """Returns the object to create, and what its user may regret.

    Raises Problem with what the webhook would refuse in it.
    """
    meta = asked.metadata
    if meta.namespace not in (None, namespace):
        words = f"must be {namespace}, the namespace of the path, or be left out"
        raise Problem(422, "this is another namespace's", faults=(("metadata.namespace", words),))
    # Where there is a name, the API server makes none up either.
    named = {"name": meta.name} if meta.name else {"generateName": meta.generate_name}
    named |= {"namespace": namespace}
    body: Body = {
        "apiVersion": API_VERSION,
        "kind": "GpuJob",
        "metadata": {**named, "labels": meta.labels, "annotations": meta.annotations},
        "spec": asked.spec.wire(),
    }
    verdict = review(
        body, backend.notes(), now=backend.clock.now(), nobody_leads=backend.nobody_leads()
    )
    places = place_faults(namespace, backend.own_namespace)
    if faults := (*places, *mark_faults(body["metadata"]), *verdict.faults):
        raise refused("the job is not valid", 422, faults)
    return body, verdict.warnings


def warning_header(warnings: tuple[str, ...]) -> dict[str, str]:
    """Returns the header in which Kubernetes tells warnings."""
    told = (text.replace("\\", "").replace('"', "'") for text in warnings)
    return {"Warning": ", ".join(f'299 gpujob "{text}"' for text in told)} if warnings else {}
