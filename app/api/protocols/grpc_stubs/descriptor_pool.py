"""Where our messages are registered: not among all others of the process.

A client of these protocols (tritonclient, kserve, TensorFlow) brings messages of the same names, and protobuf refuses
two of a name in one pool. `make stubs` has the generated modules import this one for protobuf's.
"""

from __future__ import annotations

from functools import cache

from google.protobuf import descriptor_pool, wrappers_pb2


@cache
def Default() -> descriptor_pool.DescriptorPool:  # noqa: N802 - the name by which the generated modules call it
    """Our own pool, with what our `.proto` files import of protobuf's."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    return pool
