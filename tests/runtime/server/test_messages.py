"""The gRPC protocol as it is shipped: up to date, and the same on the wire as Triton's."""

from __future__ import annotations

import pytest

pytest.importorskip("google.protobuf")

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from sommelier.runtime.server.messages import (
    HEALTH,
    INFERENCE,
    SHIPPED,
    compiled,
    message,
    methods,
)


def test_the_shipped_descriptors_are_what_protoc_makes_of_the_proto_files() -> None:
    pytest.importorskip("grpc_tools")
    shipped = FileDescriptorSet.FromString(SHIPPED.read_bytes())
    assert shipped == FileDescriptorSet.FromString(compiled()), "run `make protocol`"


def test_every_message_has_the_field_numbers_and_types_of_triton() -> None:
    theirs = pytest.importorskip("tritonclient.grpc.service_pb2").DESCRIPTOR
    ours = message("ModelInferRequest").DESCRIPTOR.file
    assert set(ours.message_types_by_name) <= set(theirs.message_types_by_name)
    for name, kind in ours.message_types_by_name.items():
        _assert_compatible(kind, theirs.message_types_by_name[name])


def test_every_method_has_the_name_messages_and_direction_of_triton() -> None:
    theirs = pytest.importorskip("tritonclient.grpc.service_pb2").DESCRIPTOR
    known = theirs.services_by_name["GRPCInferenceService"].methods_by_name
    for name, method in methods(INFERENCE).items():
        assert method.request.DESCRIPTOR.full_name == known[name].input_type.full_name
        assert method.response.DESCRIPTOR.full_name == known[name].output_type.full_name
        assert method.stream == known[name].client_streaming == known[name].server_streaming


def test_messages_of_other_libraries_with_the_same_names_do_not_get_in_the_way() -> None:
    theirs = pytest.importorskip("tritonclient.grpc.service_pb2")
    request = message("ModelInferRequest")(model_name="m", raw_input_contents=[b"\x00"])
    request.parameters["timeout"].int64_param = 5
    read = theirs.ModelInferRequest.FromString(request.SerializeToString())
    assert type(read) is not type(request)
    assert read.parameters["timeout"].int64_param == 5
    assert list(read.raw_input_contents) == [b"\x00"]


def test_the_health_service_offers_what_probes_ask() -> None:
    assert list(methods(HEALTH)) == ["Check"]
    serving = methods(HEALTH)["Check"].response(status="SERVING")
    assert serving.SerializeToString() == b"\x08\x01", "as grpc.health.v1 says"


def _assert_compatible(ours: object, theirs: object) -> None:
    for name, field in ours.fields_by_name.items():
        other = theirs.fields_by_name[name]
        assert _wire_form(field) == _wire_form(other), f"{ours.full_name}.{name}"
    for name, nested in ours.nested_types_by_name.items():
        _assert_compatible(nested, theirs.nested_types_by_name[name])


def _wire_form(field: FieldDescriptor) -> tuple[object, ...]:
    kind = field.message_type.full_name if field.message_type is not None else None
    return field.number, field.type, field.is_repeated, kind
