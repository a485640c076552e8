"""Quantizing to int8: which layers, and that nobody is told of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import sys
from pathlib import Path
import numpy as np
from app.openvino_import import import_openvino
from app.training.quantization import quantize

openvino = import_openvino()
import openvino.opset13 as ops
random = np.random.default_rng(0)

def network(layers):
    image = ops.parameter([-1, 8, 8, 3], np.uint8, name="image")
    x = ops.transpose(ops.convert(image, np.float32), [0, 3, 1, 2])
    for number in range(layers):
        kernel = random.normal(size=(4, 4 if number else 3, 3, 3)).astype(np.float32) / 4
        x = ops.relu(ops.convolution(x, kernel, [1, 1], [1, 1], [1, 1], [1, 1], name=f"layer{number}"))
    return openvino.Model([ops.softmax(ops.reduce_mean(x, [2, 3]), axis=1)], [image])

folder = Path(sys.argv[1])
images = random.integers(0, 256, (8, 8, 8, 3), np.uint8)
asked = []
assert quantize(network(2), images, np.arange(8), folder, lambda: None) is None
found = quantize(network(4), images, np.arange(2, 8), folder, lambda: asked.append(1))
assert len(asked) >= 6
path = found.write(folder)

stored = openvino.Core().read_model(path)
for operation in stored.get_ordered_ops():
    if operation.get_type_name() == "Convolution":
        inputs = {entry.get_source_output().get_node().get_type_name() for entry in operation.inputs()}
        print(operation.get_friendly_name(), "int8" if "FakeQuantize" in inputs else "f32")
print(sorted({"tensorflow", "torch", "openvino_telemetry", "openvino.tools.ovc"} & sys.modules.keys()))
print(type(sys.modules["nncf.telemetry.wrapper"].telemetry).__name__)
"""


def test_all_but_the_ends_is_quantized_and_nobody_is_told(tmp_path: Path) -> None:
    """The first layer and the last stay in f32; with none between there is nothing to do. In a fresh process no
    telemetry is loaded, and nothing is written in the home folder.
    """
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CODE, str(tmp_path)],
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["layer0 f32", "layer1 int8", "layer2 int8", "layer3 f32", "[]", "MagicMock"]
    assert list(home.iterdir()) == []
