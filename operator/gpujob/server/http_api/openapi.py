"""The API's OpenAPI document: what FastAPI derives from the routes, and what it cannot know."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from gpujob.server.http_api.bodies import NewJob
from gpujob.web.problems import MEDIA_TYPE, TITLES, ProblemDetails

ALWAYS_WITH = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}
"""The header that each answer of a status has."""


def openapi(app: FastAPI) -> dict[str, Any]:
    """Returns the document, which is made once."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        openapi_version="3.1.0",
        tags=[
            {"name": "jobs", "description": "What to run, and within which cost."},
            {"name": "machines", "description": "Rented machines, and what they cost."},
        ],
    )
    parts = document["components"]
    schemas = parts["schemas"]
    for model in (NewJob, ProblemDetails):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        inner = schema.pop("$defs", {})
        if model is NewJob:
            # The reader of bodies rejects unknown fields at all levels, and drops null.
            schema = _or_null(schema)
            inner = {
                name: {**_or_null(one), "additionalProperties": False}
                for name, one in inner.items()
            }
        schemas |= {model.__name__: schema} | inner
    # FastAPI always documents its own answer to wrong parameters, which this API never gives, see
    # https://github.com/fastapi/fastapi/issues/3424.
    unused = [schemas.pop(name) for name in ("HTTPValidationError", "ValidationError")]
    assert len(unused) == 2, "FastAPI documents its own answer"
    parts["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"bearer": []}]
    parts["responses"] = {}
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                # An absent parameter means "not given"; null would be sent as the word "null".
                parameter["schema"] = _without_null(parameter["schema"])
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
            for status, title in TITLES.items():
                if str(status) in operation["responses"]:
                    name = title.replace(" ", "")
                    operation["responses"][str(status)] = {"$ref": f"#/components/responses/{name}"}
                    parts["responses"][name] = _problem_response(status, title)
    app.openapi_schema = document
    return document


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Returns the schema of an object in which each field that may be left out may be null."""
    null = {"type": "null"}
    fields = {
        name: one
        if name in schema.get("required", ()) or null in one.get("anyOf", ())
        else {"anyOf": [_or_null(one), null]}
        for name, one in schema.get("properties", {}).items()
    }
    changed = {"properties": fields} if fields else {}
    if isinstance(held := schema.get("additionalProperties"), dict):
        changed["additionalProperties"] = {"anyOf": [held, null]}
    return schema | changed


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    kinds: list[dict[str, Any]]
    kinds = [one for one in schema.get("anyOf", ()) if one != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    return {key: value for key, value in schema.items() if key != "anyOf"} | kinds[0]


def _problem_response(status: int, title: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{ProblemDetails.__name__}"}
    response: dict[str, Any] = {"description": title, "content": {MEDIA_TYPE: {"schema": schema}}}
    if header := ALWAYS_WITH.get(status):
        response["headers"] = {header: {"required": True, "schema": {"type": "string"}}}
    return response
