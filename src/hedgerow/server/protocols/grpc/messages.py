"""The protocol's messages, made of the descriptors that ``tools/protocol.py`` writes; ``messages.pyi`` has their types.

They live in a pool of their own: an application that also loads Triton's client (which registers the same names for
the whole process) can have both. And the descriptors need no particular version of protobuf, as generated code does.
"""

from __future__ import annotations

from pathlib import Path

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

_files = descriptor_pb2.FileDescriptorSet.FromString(
    Path(__file__).with_name("open_inference.binpb").read_bytes(),
)
_pool = DescriptorPool()
for _file in _files.file:
    _pool.Add(_file)
DESCRIPTOR = _pool.FindFileByName("open_inference.proto")
globals().update(
    {name: message_factory.GetMessageClass(message) for name, message in DESCRIPTOR.message_types_by_name.items()}
)
DataType = EnumTypeWrapper(DESCRIPTOR.enum_types_by_name["DataType"])
