"""Messages of the Open Inference Protocol v2 and of gRPC's health protocol, made when the process starts.

The tables below are the protocol: names and numbers as the public specifications have them (package ``inference``,
service ``GRPCInferenceService``; package ``grpc.health.v1``). Messages are made from them at run time, in a pool of
their own, so that nothing generated has to be kept in step, and a client library in the same process keeps its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from genrecall.errors import DependencyError

_TENSOR = ("string name = 1", "string datatype = 2", "repeated int64 shape = 3")
_PARAMETERS = "map<string, InferParameter> parameters = 4"

INFERENCE: Mapping[str, Sequence[str]] = {
    "ServerLiveRequest": (),
    "ServerLiveResponse": ("bool live = 1",),
    "ServerReadyRequest": (),
    "ServerReadyResponse": ("bool ready = 1",),
    "ModelReadyRequest": ("string name = 1", "string version = 2"),
    "ModelReadyResponse": ("bool ready = 1",),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": ("string name = 1", "string version = 2", "repeated string extensions = 3"),
    "ModelMetadataRequest": ("string name = 1", "string version = 2"),
    "ModelMetadataResponse": (
        "string name = 1",
        "repeated string versions = 2",
        "string platform = 3",
        "repeated ModelMetadataResponse.TensorMetadata inputs = 4",
        "repeated ModelMetadataResponse.TensorMetadata outputs = 5",
    ),
    "ModelMetadataResponse.TensorMetadata": _TENSOR,
    "InferParameter": (
        "oneof bool bool_param = 1",
        "oneof int64 int64_param = 2",
        "oneof string string_param = 3",
        "oneof double double_param = 4",
        "oneof uint64 uint64_param = 5",
    ),
    "InferTensorContents": (
        "repeated bool bool_contents = 1",
        "repeated int32 int_contents = 2",
        "repeated int64 int64_contents = 3",
        "repeated uint32 uint_contents = 4",
        "repeated uint64 uint64_contents = 5",
        "repeated float fp32_contents = 6",
        "repeated double fp64_contents = 7",
        "repeated bytes bytes_contents = 8",
    ),
    "ModelInferRequest": (
        "string model_name = 1",
        "string model_version = 2",
        "string id = 3",
        _PARAMETERS,
        "repeated ModelInferRequest.InferInputTensor inputs = 5",
        "repeated ModelInferRequest.InferRequestedOutputTensor outputs = 6",
        "repeated bytes raw_input_contents = 7",
    ),
    "ModelInferRequest.InferInputTensor": (*_TENSOR, _PARAMETERS, "InferTensorContents contents = 5"),
    "ModelInferRequest.InferRequestedOutputTensor": (
        "string name = 1",
        "map<string, InferParameter> parameters = 2",
    ),
    "ModelInferResponse": (
        "string model_name = 1",
        "string model_version = 2",
        "string id = 3",
        _PARAMETERS,
        "repeated ModelInferResponse.InferOutputTensor outputs = 5",
        "repeated bytes raw_output_contents = 6",
    ),
    "ModelInferResponse.InferOutputTensor": (*_TENSOR, _PARAMETERS, "InferTensorContents contents = 5"),
}
HEALTH: Mapping[str, Sequence[str]] = {
    "HealthCheckRequest": ("string service = 1",),
    "HealthCheckResponse": ("int32 status = 1",),  # an enum on the wire is its number: 1 serving, 2 not serving
}
_FIELD = re.compile(r"(?:(repeated|oneof) )?(map<string, )?([\w.]+)>? (\w+) = (\d+)")


def messages(package: str, table: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Message classes by name.

    Raises:
        DependencyError: protobuf is not installed.
    """
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ModuleNotFoundError as error:
        raise DependencyError("protobuf", extra="grpc", purpose="the gRPC listener") from error
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    made: dict[str, Any] = {}

    def add(message: Any, line: str) -> None:
        found = _FIELD.fullmatch(line)
        assert found is not None, line
        label, is_map, kind, name, number = found.groups()
        field = message.field.add(name=name, number=int(number))
        field.label = kinds.LABEL_REPEATED if label == "repeated" or is_map else kinds.LABEL_OPTIONAL
        if is_map:
            entry = message.nested_type.add(name="".join(part.title() for part in name.split("_")) + "Entry")
            entry.options.map_entry = True
            add(entry, "string key = 1")
            add(entry, f"{kind} value = 2")
            field.type, field.type_name = kinds.TYPE_MESSAGE, f".{package}.{full[message.name]}.{entry.name}"
        elif kind in table:
            field.type, field.type_name = kinds.TYPE_MESSAGE, f".{package}.{kind}"
        else:
            field.type = kinds.Type.Value(f"TYPE_{kind.upper()}")
        if label == "oneof":
            if not message.oneof_decl:
                message.oneof_decl.add(name="parameter_choice")
            field.oneof_index = 0

    full = {name.rpartition(".")[2]: name for name in table}
    for name in sorted(table, key=lambda name: name.count(".")):
        outer, _, own = name.rpartition(".")
        made[name] = made[outer].nested_type.add(name=own) if outer else file.message_type.add(name=own)
        for line in table[name]:
            add(made[name], line)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in table}
