"""What the server offers, as an OpenAPI document and as a page for people; nothing is fetched."""

from __future__ import annotations

import functools
import html
from typing import Any

from sommelier.runtime.server.keys import OPEN
from sommelier.runtime.server.pages import DESCRIBED

_PARAMETERS = {
    "priority": "1 is the highest, 0 the usual one",
    "timeout": "microseconds until the answer is of no use",
    "sommelier_deadline_ms": "the same in ms; goes before timeout",
    "sommelier_min_accuracy": "in [0, 1]; only models known to reach it may answer",
    "binary_data_output": "outputs come as raw bytes",
}
_ERRORS = {
    "400": "the request is malformed, or the model is not ready",
    "401": "no valid key came, and the server wants one",
    "404": "no model of this name or version",
    "405": "the path takes another method; Allow says which",
    "408": "the request did not arrive in time",
    "413": "the body, or JSON in it, is too large",
    "414": "the target is too long",
    "415": "the encoding of the body is not read; gzip and deflate are",
    "429": "too much to do; Retry-After says when to come again",
    "431": "the headers are too long or too many",
    "500": "a model or the server failed",
    "503": "the server is full, not ready or shutting down, or no model can answer",
    "504": "the deadline passed",
}
_OF_INFERENCE = frozenset({"415", "429", "504"})
_OF_A_MODEL: tuple[tuple[str, str, str], ...] = (
    ("get", "", "Inputs and outputs of a deployment or model"),
    ("get", "/ready", "Whether it takes requests; 400 if not"),
    ("get", "/stats", "Its counts and durations"),
    ("post", "/infer", "Inference, as JSON or with binary tensors"),
)
_MODELS = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
_PATHS: tuple[tuple[str, str, str], ...] = (
    ("get", "/v2", "The server's name, version and extensions"),
    ("get", "/v2/health/live", "Whether it runs"),
    ("get", "/v2/health/ready", "Whether it takes requests; 503 while it loads or drains"),
    *((method, model + path, told) for model in _MODELS for method, path, told in _OF_A_MODEL),
    ("get", "/v2/models/stats", "Counts and durations of all"),
    ("post", "/v2/repository/index", "All that is served, and its state"),
    ("post", "/v2/repository/models/{model}/load", "Load its models and take requests"),
    ("post", "/v2/repository/models/{model}/unload", "Take it out of service"),
    ("get", "/metrics", "Metrics for Prometheus"),
    ("get", "/openapi.json", "This description for machines"),
    ("get", "/docs", "This description for people"),
    ("get", "/", "The same"),
)
_NAMED = {"model": {"type": "string"}, "version": {"type": "string", "enum": ["1"]}}
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
def document(pages: bool = False) -> dict[str, Any]:
    """The OpenAPI 3.1 document. pages : whether the server has the explorer."""
    from sommelier import __version__

    paths: dict[str, Any] = {}
    for method, path, told in _paths(pages):
        paths.setdefault(path, {})[method] = _operation(path, told)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Sommelier: Open Inference Protocol v2", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
        "security": [{}, {"bearer": []}, {"key": []}],
    }


@functools.cache
def page(pages: bool = False) -> bytes:
    """The same for people, as HTML."""
    rows = "".join(
        f"<tr><td><code>{method.upper()} {html.escape(path)}</code></td>"
        f"<td>{html.escape(told)}</td></tr>"
        for method, path, told in _paths(pages)
    )
    parameters = "".join(f"<tr><td><code>{n}</code></td><td>{t}</td></tr>" for n, t in _wishes())
    explorer = ' · <a href="/">Ask the database</a>' if pages else ""
    errors = "".join(f"<tr><td>{s}</td><td>{why}</td></tr>" for s, why in _ERRORS.items())
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Sommelier</title>'
        f"<style>{_STYLE}</style><h1>Sommelier</h1>"
        "<p>This server speaks the Open Inference Protocol v2. "
        f'<a href="/openapi.json">openapi.json</a>{explorer}</p>'
        f"<table>{rows}</table><p>What takes GET takes HEAD, every path OPTIONS.</p>"
        f"<h2>Inference</h2><pre>{html.escape(_EXAMPLE)}</pre>"
        f"<h2>Parameters of a request</h2><table>{parameters}</table>"
        f"<h2>Errors</h2><table>{errors}</table></html>"
    ).encode()


def _paths(pages: bool) -> tuple[tuple[str, str, str], ...]:
    return (*_PATHS[:-1], *DESCRIBED) if pages else _PATHS  # the last one is the root


def _operation(path: str, told: str) -> dict[str, Any]:
    inference = path.endswith("/infer")
    names = [name for name in _NAMED if f"{{{name}}}" in path]
    unsaid = set() if inference else set(_OF_INFERENCE)
    unsaid |= {"401"} if path in OPEN else set()
    unsaid |= set() if names else {"404"}
    answer: dict[str, Any] = {"description": told}
    errors = {status: {"description": why} for status, why in _ERRORS.items()}
    said = {status: error for status, error in errors.items() if status not in unsaid}
    operation: dict[str, Any] = {"summary": told, "responses": {"200": answer, **said}}
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": _NAMED[name]} for name in names
        ]
    if inference:
        operation["requestBody"] = {"required": True, "content": _content("InferRequest")}
        answer["content"] = _content("InferResponse")
    if path in OPEN:
        operation["security"] = []
    return operation


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
