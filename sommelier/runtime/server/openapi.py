"""What the server offers, as an OpenAPI document and as a page for people; nothing is fetched."""

from __future__ import annotations

import functools
import html
from typing import Any

_PARAMETERS = {
    "priority": "1 is the highest, 0 the usual one",
    "timeout": "microseconds until the answer is of no use",
    "sommelier_deadline_ms": "the same in ms; goes before timeout",
    "sommelier_min_accuracy": "in [0, 1]; only models known to reach it may answer",
    "binary_data_output": "outputs come as raw bytes",
}
_ERRORS = {
    "400": "the request is malformed, or the model is not ready",
    "404": "no model of this name or version",
    "413": "the body is too large",
    "429": "too much to do; Retry-After says when to come again",
    "503": "the server is shutting down, or no model can answer",
    "504": "the deadline passed",
}
_MODEL = "/v2/models/{model}"
_PATHS: tuple[tuple[str, str, str], ...] = (
    ("get", "/v2", "The server's name, version and extensions"),
    ("get", "/v2/health/live", "Whether it runs"),
    ("get", "/v2/health/ready", "Whether it takes requests; 503 while it loads or drains"),
    ("get", _MODEL, "Inputs and outputs of a deployment or model"),
    ("get", f"{_MODEL}/ready", "Whether it takes requests"),
    ("get", f"{_MODEL}/stats", "Its counts and durations"),
    ("get", "/v2/models/stats", "Those of all"),
    ("post", f"{_MODEL}/infer", "Inference, as JSON or with binary tensors"),
    ("post", "/v2/repository/index", "All that is served, and its state"),
    ("post", "/v2/repository/models/{model}/load", "Load its models and take requests"),
    ("post", "/v2/repository/models/{model}/unload", "Take it out of service"),
    ("get", "/metrics", "Metrics for Prometheus"),
    ("get", "/openapi.json", "This description for machines"),
)
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}"
    "code,pre{background:#8881;border-radius:4px;padding:.1em .3em}pre{padding:1em;overflow:auto}"
    "td{padding:.2em 1em .2em 0;vertical-align:top}"
)
_EXAMPLE = """curl localhost:8000/v2/models/MODEL/infer -d '{
  "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}],
  "parameters": {"sommelier_deadline_ms": 50}
}'"""


@functools.cache
def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    from sommelier import __version__

    paths: dict[str, Any] = {}
    for method, path, told in _PATHS:
        operation: dict[str, Any] = {"summary": told, "responses": {"200": {"description": told}}}
        if "{model}" in path:
            name = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
            operation["parameters"] = [name]
            operation["responses"] |= {"404": {"description": _ERRORS["404"]}}
        if path.endswith("/infer"):
            operation["requestBody"] = {"required": True, "content": _content("InferRequest")}
            operation["responses"]["200"]["content"] = _content("InferResponse")
            operation["responses"] |= {
                status: {"description": why} for status, why in _ERRORS.items()
            }
        paths.setdefault(path, {})[method] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Sommelier: Open Inference Protocol v2", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


@functools.cache
def page() -> bytes:
    """The same for people, as HTML."""
    rows = "".join(
        f"<tr><td><code>{method.upper()} {html.escape(path)}</code></td>"
        f"<td>{html.escape(told)}</td></tr>"
        for method, path, told in _PATHS
    )
    parameters = "".join(f"<tr><td><code>{n}</code></td><td>{t}</td></tr>" for n, t in _wishes())
    errors = "".join(f"<tr><td>{s}</td><td>{why}</td></tr>" for s, why in _ERRORS.items())
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Sommelier</title>'
        f"<style>{_STYLE}</style><h1>Sommelier</h1>"
        "<p>This server speaks the Open Inference Protocol v2. "
        '<a href="/openapi.json">openapi.json</a></p>'
        f"<table>{rows}</table><h2>Inference</h2><pre>{html.escape(_EXAMPLE)}</pre>"
        f"<h2>Parameters of a request</h2><table>{parameters}</table>"
        f"<h2>Errors</h2><table>{errors}</table></html>"
    ).encode()


def _wishes() -> list[tuple[str, str]]:
    return [(name, html.escape(told)) for name, told in _PARAMETERS.items()]


def _content(schema: str) -> dict[str, Any]:
    form = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    return {"application/json": form, "application/octet-stream": {}}


def _schemas() -> dict[str, Any]:
    from sommelier.runtime.server.tensors import DATATYPES

    text = {"type": "string"}
    tensor = {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": text,
            "datatype": {"type": "string", "enum": list(DATATYPES)},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "parameters": {
                "type": "object",
                "properties": {"binary_data_size": {"type": "integer", "minimum": 0}},
            },
            "data": {"type": "array", "description": "flat, row by row, or nested"},
        },
    }
    wanted = {"type": "object", "required": ["name"], "properties": {"name": text}}
    parameters = {name: {"description": told} for name, told in _PARAMETERS.items()}
    reference = {"$ref": "#/components/schemas/Tensor"}
    request = {
        "id": text,
        "parameters": {"type": "object", "properties": parameters},
        "inputs": {"type": "array", "items": reference},
        "outputs": {"type": "array", "items": wanted},
    }
    response = {
        "model_name": text,
        "model_version": text,
        "id": text,
        "parameters": {"type": "object", "description": "sommelier_model, sommelier_reason ..."},
        "outputs": {"type": "array", "items": reference},
    }
    return {
        "Tensor": tensor,
        "InferRequest": {"type": "object", "required": ["inputs"], "properties": request},
        "InferResponse": {"type": "object", "properties": response},
    }
