"""The modules of gRPC's messages, and how messages are taken apart before protobuf parses them."""

from __future__ import annotations

import filecmp
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from app.api.protocols.grpc_stubs import inference_pb2 as pb
from app.api.protocols.rpc.infer import _SHAPE
from app.api.protocols.rpc.wire import take_apart
from app.errors import InvalidRequest
from tests.system import require_tool

STUBS = Path("app/api/protocols/grpc_stubs")


def test_the_stubs_are_those_of_the_proto_files(tmp_path: Path) -> None:
    """`make stubs` makes what is there."""
    require_tool("make")
    variables = [f"OUT={tmp_path}", f"BIN={Path(sys.executable).parent}"]
    subprocess.run(
        ["make", "--assume-old=.venv/.installed", "stubs", *variables], check=True, capture_output=True, text=True
    )
    made = sorted(path.name for path in (tmp_path / STUBS).iterdir())
    assert made == sorted(path.name for path in STUBS.glob("*_pb2.py*"))
    assert filecmp.cmpfiles(STUBS, tmp_path / STUBS, made, shallow=False)[0] == made


def request(raw: list[bytes], names: list[str], numbers: list[int]) -> Any:
    """A request of any kind."""
    message = pb.ModelInferRequest(model_name="shapes", raw_input_contents=raw)
    for name in names:
        tensor = message.inputs.add(name=name, shape=numbers)
        tensor.contents.uint_contents.extend(abs(number) % 2**32 for number in numbers)
        message.outputs.add(name=name).parameters[name].string_param = name
    return message


requests = st.builds(
    request,
    st.lists(st.binary(max_size=20), max_size=3),
    st.lists(st.text(max_size=5), max_size=3),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
)


@settings(max_examples=50)
@given(requests)
def test_nothing_is_lost_when_a_message_is_taken_apart(message: Any) -> None:
    """Raw tensors are views of it, and all else is parsed as it was."""
    parts = take_apart(message.SerializeToString(), _SHAPE)
    assert [bytes(view) for view in parts.taken] == list(message.raw_input_contents)
    message.ClearField("raw_input_contents")
    assert pb.ModelInferRequest.FromString(parts.rest) == message


@given(
    st.one_of(
        st.binary(max_size=60),
        st.tuples(requests, st.integers(0, 60)).map(lambda cut: cut[0].SerializeToString()[: cut[1]]),
    )
)
def test_what_is_no_message_is_found_out(message: bytes) -> None:
    """Whatever comes is a message, or refused as none."""
    try:
        parts = take_apart(message, _SHAPE)
        pb.ModelInferRequest.FromString(parts.rest)
    except (InvalidRequest, DecodeError):
        with pytest.raises(DecodeError):
            pb.ModelInferRequest.FromString(message)
    else:
        assert pb.ModelInferRequest.FromString(message).raw_input_contents == [bytes(each) for each in parts.taken]


def test_packed_numbers_count_as_what_they_become() -> None:
    """A byte of them is eight in memory, and more while they are read; a raw tensor is no more than it is."""
    many = request([], ["a"], [])
    many.inputs[0].contents.int64_contents.extend([1] * 10_000)
    raw = request([b"1" * 10_000], ["a"], [])
    packed, plain = (take_apart(each.SerializeToString(), _SHAPE).memory for each in (many, raw))
    assert packed > 16 * 10_000
    assert plain < 2 * 10_000
