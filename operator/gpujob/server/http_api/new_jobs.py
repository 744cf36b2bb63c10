"""Checks a job that was sent to the API, before it is created or estimated."""

from gpujob.adapters.kube import Body
from gpujob.api.meta import API_VERSION
from gpujob.core.admission import review
from gpujob.server.http_api.bodies import NewJob
from gpujob.server.http_api.dependencies import Backend
from gpujob.web.problems import Problem


def object_of(asked: NewJob, backend: Backend) -> Body:
    """Returns the object to create; raises Problem with what the webhook would refuse in it."""
    body: Body = {
        "apiVersion": API_VERSION,
        "kind": "GpuJob",
        "metadata": asked.metadata.model_dump(),
        "spec": asked.spec.wire(),
    }
    verdict = review(body, backend.notes(), now=backend.clock.now())
    if verdict.faults:
        faults = tuple((fault.field, fault.message) for fault in verdict.faults)
        raise Problem(422, "the job is not valid", faults=faults)
    return body
