"""Calls everything that the provider's official SDK can do, and prints what came of each.

It is run by the Python that has the package, with the simulator's address, a key, and what to use
as arguments, by name, as JSON. Each line of its output is one call: its name, the requests that it
made with status and body of each answer, and the error that it raised.
"""

import importlib
import inspect
import json
import pkgutil
import sys
import warnings
from collections.abc import Callable
from typing import Any

OF_THE_SDK_ALONE = ("set_api_key", "generate_pdf_invoices", "self_test_machine")
"""They make no request, or the requests of other methods from a clock that takes minutes."""
LAST = ("destroy_instance", "destroy_instances", "delete_ssh_key", "detach_ssh")


def main() -> None:
    """Calls each method of the SDK, then each function that it does not wrap."""
    address, key, held = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    warnings.simplefilter("ignore")
    client_module: Any = importlib.import_module("vastai.api.client")
    sdk_module: Any = importlib.import_module("vastai.sdk")
    came: list[dict[str, Any]] = []
    send = client_module.VastSession.send

    def listening(session: Any, request: Any, **options: Any) -> Any:
        answer = send(session, request, **options)
        path = request.url.removeprefix(address)
        seen = {"method": request.method, "path": path.partition("?")[0]}
        came.append(seen | {"status": answer.status_code, "body": answer.text[:2000]})
        return answer

    client_module.VastSession.send = listening
    sdk = sdk_module.VastAI(api_key=key, server_url=address, retry=1)
    methods = {
        name: method
        for name, method in inspect.getmembers(sdk, inspect.ismethod)
        if not name.startswith("_") and name not in OF_THE_SDK_ALONE
    }
    ordered = sorted(methods, key=lambda name: (name in LAST and LAST.index(name) + 1, name))
    for name in ordered:
        _call(name, methods[name], held, came)
    package: Any = importlib.import_module("vastai.api")
    for found in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"vastai.api.{found.name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            parameters = list(inspect.signature(function).parameters)
            is_own = function.__module__ == module.__name__ and not name.startswith("_")
            if is_own and parameters[:1] == ["client"] and name not in methods:
                _call(f"{found.name}.{name}", function, held | {"client": sdk.client}, came)


def _call(
    name: str, method: Callable[..., Any], held: dict[str, Any], came: list[dict[str, Any]]
) -> None:
    came.clear()
    arguments: dict[str, Any] = {}
    for parameter in inspect.signature(method).parameters.values():
        is_needed = parameter.default is inspect.Parameter.empty
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            arguments |= held.get(f"{name}.**", {})
        elif f"{name}.{parameter.name}" in held:
            arguments[parameter.name] = held[f"{name}.{parameter.name}"]
        elif is_needed:
            arguments[parameter.name] = held.get(parameter.name, "1")
    error = ""
    try:
        method(**arguments)
    except Exception as raised:  # noqa: BLE001 - it is printed
        error = f"{type(raised).__name__}: {raised}"
    print(json.dumps({"call": name, "requests": came, "error": error}), flush=True)


if __name__ == "__main__":
    main()
