"""The messages and methods of the gRPC protocol, made of what protoc wrote of the .proto files.

They live in a descriptor pool of their own: another library of the process (tritonclient, kserve)
may bring messages of the same names, and a pool takes a name only once. No code is generated, so
any release of protobuf will do. `python -m sommelier.runtime.server.messages` (or `make protocol`)
writes inference.descriptor again; it needs grpcio-tools.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sommelier.errors import MissingDependencyError

FOLDER = Path(__file__).parent
SOURCES = ("inference.proto", "health.proto")
SHIPPED = FOLDER / "inference.descriptor"
INFERENCE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"


@dataclass(frozen=True, slots=True)
class Method:
    """One remote procedure: its message classes, and whether it is a stream on both sides."""

    request: type[Any]
    response: type[Any]
    stream: bool


def message(name: str) -> type[Any]:
    """The class of a message of inference.proto: message("ModelInferRequest")."""
    return _class(f"inference.{name}")


@cache
def methods(service: str) -> Mapping[str, Method]:
    """What a service offers, by name. service : INFERENCE or HEALTH."""
    return {
        method.name: Method(
            _class(method.input_type.full_name),
            _class(method.output_type.full_name),
            method.client_streaming,
        )
        for method in _pool().FindServiceByName(service).methods
    }


def compiled() -> bytes:
    """The descriptors of the .proto files as protoc writes them now.

    Raises MissingDependencyError without grpcio-tools.
    """
    import tempfile

    try:
        from grpc_tools import protoc
    except ImportError as error:
        raise MissingDependencyError(
            "grpcio-tools is not installed", hint="pip install grpcio-tools"
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "descriptors"
        command = ["protoc", f"-I{FOLDER}", f"--descriptor_set_out={written}", *SOURCES]
        if protoc.main(command) != 0:
            raise ValueError(f"protoc does not take {', '.join(SOURCES)}")
        return written.read_bytes()


@cache
def _class(full_name: str) -> type[Any]:
    from google.protobuf.message_factory import GetMessageClass

    found: type[Any] = GetMessageClass(_pool().FindMessageTypeByName(full_name))
    return found


@cache
def _pool() -> Any:
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from google.protobuf.descriptor_pool import DescriptorPool

    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(SHIPPED.read_bytes()).file:
        pool.Add(file)
    return pool


if __name__ == "__main__":
    SHIPPED.write_bytes(compiled())
