"""The errors that adapters raise are a closed tree, and its picture is true."""

import inspect

import gpujob.adapters.errors as module
from gpujob.adapters.errors import AdapterError


def tree(kind: type[Exception], depth: int = 0) -> set[tuple[int, str, str]]:
    """Returns depth, name and parent of a class and of all below it that the module defines."""
    parent = "" if depth == 0 else kind.__bases__[0].__name__
    found = {(depth, kind.__name__, parent)}
    for below in kind.__subclasses__():
        if below.__module__ == module.__name__:
            found |= tree(below, depth + 1)
    return found


def drawn(picture: str) -> set[tuple[int, str, str]]:
    """Returns depth, name and parent of each line of the picture."""
    found: set[tuple[int, str, str]] = set()
    above: list[str] = []
    for line in picture.splitlines():
        branch, mark, rest = line.rpartition("── ")
        if not mark and line != AdapterError.__name__:
            continue
        depth = (len(branch) + len(mark)) // 4
        name = rest.split()[0]
        above = [*above[:depth], name]
        found.add((depth, name, above[depth - 1] if depth else ""))
    return found


def test_the_picture_shows_every_error_under_its_parent() -> None:
    """A class that is missing in the picture is missing in the reader's mind."""
    assert drawn(module.__doc__ or "") == tree(AdapterError)


def test_every_error_of_the_module_belongs_to_the_tree() -> None:
    """Callers that catch AdapterError catch all that an adapter may raise."""
    defined = {
        name
        for name, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, BaseException) and kind.__module__ == module.__name__
    }

    assert defined == {name for _, name, _ in tree(AdapterError)}
