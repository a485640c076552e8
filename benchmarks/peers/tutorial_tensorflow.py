"""The server that a good tutorial ends with: FastAPI, Pillow and TensorFlow in some fifty lines.

uvicorn benchmarks.peers.tutorial_tensorflow:app --workers 2
"""

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from fastapi import FastAPI, File, Request, UploadFile
from PIL import Image

VERSION = Path(os.environ["BENCH_VERSION"])
ABOUT = json.loads((VERSION / "model.json").read_text())
LABELS = ABOUT["labels"]
SIZE = (ABOUT["preprocessing"]["width"], ABOUT["preprocessing"]["height"])
MODE = "L" if ABOUT["preprocessing"]["color"] == "grayscale" else "RGB"

saved_model = tf.saved_model.load(str(VERSION))
model = saved_model.signatures["serving_default"]
app = FastAPI()


def preprocess(data: bytes) -> npt.NDArray[Any]:
    image = Image.open(io.BytesIO(data)).convert(MODE).resize(SIZE, Image.Resampling.BILINEAR)
    array = np.asarray(image).reshape(SIZE[1], SIZE[0], -1)
    if ABOUT["input"]["dtype"] == "uint8":
        return array
    return array.astype(np.float32) / 127.5 - 1


def classify(images: list[bytes]) -> dict[str, Any]:
    batch = np.stack([preprocess(data) for data in images])
    answers = model(**{ABOUT["input"]["name"]: tf.constant(batch)})[ABOUT["output"]["name"]].numpy()
    return {"predictions": [prediction(row) for row in answers]}


def prediction(row: npt.NDArray[Any]) -> dict[str, Any]:
    top = [
        {"label": LABELS[index], "class_index": int(index), "probability": float(row[index])}
        for index in np.argsort(row)[::-1][:5]
    ]
    return {"label": top[0]["label"], "probability": top[0]["probability"], "top": top}


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    return classify([await request.body()])


@app.post("/predict-many")
def predict_many(images: list[UploadFile] = File()) -> dict[str, Any]:  # noqa: B008
    return classify([image.file.read() for image in images])
