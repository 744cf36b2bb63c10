"""What an event of the watch costs."""

from typing import Any, Never

import kopf

from gpujob.controller.watch import kopf_settings


class Uncopied(dict[str, Any]):
    """A part of an object that must not be copied."""

    def __deepcopy__(self, memo: object) -> Never:
        raise AssertionError("kopf copies the object")


def test_kopf_copies_no_object() -> None:
    """Else ten thousand stored objects hold the process up at its start until its lock is lost."""
    body = kopf.Body({"metadata": {"name": "job"}, "spec": Uncopied(), "status": Uncopied()})
    persistence = kopf_settings({}).persistence

    essence = persistence.diffbase_storage.build(body=body)

    assert persistence.diffbase_storage.fetch(body=body) is None
    assert persistence.progress_storage.clear(essence=essence) == {}
