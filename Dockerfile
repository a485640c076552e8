# Three images from one file:
#
#   docker build --target serve -t fovea .         answers requests; has no TensorFlow
#   docker build --target full  -t fovea-full .    trains and exports as well
#   docker build --target ray   -t fovea-ray .     the same with Ray: a node of a cluster that training jobs run on
#
# BASE_IMAGE may be any image with Python 3.11 to 3.13 as `python3`, its venv module and a shell; for a build that
# can be repeated, name it by digest. Behind a package mirror, give pip its configuration as a secret, of which
# nothing stays in the image: --secret id=pip_conf,src=pip.conf

ARG BASE_IMAGE=python:3.12-slim-bookworm


# What all need to build: the environment's folder, and Fovea itself as a wheel.
FROM ${BASE_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_ONLY_BINARY=:all:
# In site-packages: OpenVINO's plugins for GPUs and NPUs, the kernels that it keeps for them, and LiteRT's counterparts.
# They are of no use without drivers, which no image has.
ENV UNUSED="openvino/libs/libopenvino_intel_gpu_plugin.so openvino/libs/libopenvino_intel_npu_plugin.so \
openvino/libs/cache.json ai_edge_litert/libLiteRtWebGpuAccelerator.so ai_edge_litert/aot ai_edge_litert/tools \
ai_edge_litert/vendors"
WORKDIR /src
RUN python3 -m venv /opt/fovea && python3 -m venv /opt/backend
COPY requirements/dev.txt requirements/
# The build backend's part of the lock. Should it come to need another package, pip says so and stops.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    awk '/^[^ #]/ { keep = /^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/ } keep' \
        requirements/dev.txt > requirements/backend.txt \
    && /opt/backend/bin/pip install --require-hashes -r requirements/backend.txt
COPY pyproject.toml README.md ./
COPY app app
RUN /opt/backend/bin/pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /wheel .


# The environment of each image. Its dependencies come before Fovea, so that a change of code installs only code;
# pip leaves in the same step, since nothing installs anything at run time.
FROM build AS build-serve
COPY requirements/serve.txt requirements/
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    /opt/fovea/bin/pip install --require-hashes -r requirements/serve.txt \
    && cd /opt/fovea/lib/python3*/site-packages && rm -rf ${UNUSED}
RUN /opt/fovea/bin/pip install --no-deps --no-index /wheel/*.whl \
    && /opt/fovea/bin/pip uninstall --yes pip

FROM build AS build-full
COPY requirements/train.txt requirements/
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    /opt/fovea/bin/pip install --require-hashes -r requirements/train.txt \
    && cd /opt/fovea/lib/python3*/site-packages && rm -rf ${UNUSED}
RUN /opt/fovea/bin/pip install --no-deps --no-index /wheel/*.whl \
    && /opt/fovea/bin/pip uninstall --yes pip

FROM build AS build-ray
COPY requirements/ray.txt requirements/
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    /opt/fovea/bin/pip install --require-hashes -r requirements/ray.txt \
    && cd /opt/fovea/lib/python3*/site-packages && rm -rf ${UNUSED}
RUN /opt/fovea/bin/pip install --no-deps --no-index /wheel/*.whl \
    && /opt/fovea/bin/pip uninstall --yes pip


# What all are at run time, but for the environment.
FROM ${BASE_IMAGE} AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="fovea" \
      org.opencontainers.image.description="Image classification as a service you run yourself" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      com.amazonaws.sagemaker.capabilities.accept-bind-to-port="true" \
      com.amazonaws.sagemaker.capabilities.multi-models="true"
# The user is a number, so that Kubernetes can see that it is not root; it needs no entry in /etc/passwd.
# The two folders are its own, so that a named volume mounted there starts as a copy that it may write to;
# everything else belongs to root. With a read-only root file system the shipped models are read-only too.
RUN mkdir -p /app/model_store /app/workspace && chown 10001:10001 /app/model_store /app/workspace
COPY --chown=10001:10001 model_store /app/model_store
# Port, store and workspace stay at their defaults, 8000 and folders below /app: what is set here would win over what
# SageMaker and Vertex AI say.
ENV PATH=/opt/fovea/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    FOVEA_HOST=0.0.0.0 \
    FOVEA_LOG_FORMAT=json
WORKDIR /app
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + next(filter(None, map(os.environ.get, ('FOVEA_PORT', 'AIP_HTTP_PORT', 'SAGEMAKER_BIND_TO_PORT'))), '8000') + '/health/live', timeout=4)"]
ENTRYPOINT ["fovea"]
CMD ["serve"]


FROM runtime AS serve
# It cannot train; jobs wait for a `fovea worker` of the full image that shares the workspace.
ENV FOVEA_EXECUTOR=none
COPY --from=build-serve /opt/fovea /opt/fovea

FROM runtime AS full
LABEL org.opencontainers.image.title="fovea-full" \
      org.opencontainers.image.description="Image classification as a service you run yourself, with training"
COPY --from=build-full /opt/fovea /opt/fovea

FROM runtime AS ray
LABEL org.opencontainers.image.title="fovea-ray" \
      org.opencontainers.image.description="A node of a Ray cluster that runs the training jobs of Fovea"
COPY --from=build-ray /opt/fovea /opt/fovea
