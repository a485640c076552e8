# make serve   install what is missing and start the service on 127.0.0.1:8000 (PORT=… changes the port)
# make test    install what is missing and run all tests
# make kserve-client   install KServe's client, at which the tests hold the service: in an environment of its own
# make check   lint, types and the floors of the house
# make stubs   make the modules of the gRPC services' messages again, after a change of a .proto file
# make bench   time the service beside others and beside what the machine could do (an hour of a quiet machine; needs wrk)

PYTHON ?= python3
PORT ?= $(or $(FOVEA_PORT),8000)
VENV := .venv
BIN := $(VENV)/bin
# Touched last, so that an install that was interrupted is done again.
STAMP := $(VENV)/.installed

.PHONY: serve install test kserve-client check bench format stubs lock clean

serve: $(STAMP)
	@FOVEA_PORT=$(PORT) exec $(BIN)/fovea serve

install: $(STAMP)

$(STAMP): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] < (3, 14); sys.exit(None if ok else f"Fovea needs Python 3.11 to 3.13; {sys.executable} is {sys.version.split()[0]}. Name another: make PYTHON=python3.12 …")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "Installing into $(VENV): once, some 700 MB, a few minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal

# It pins other versions of what the service uses. Only what it imports is compiled: all of it takes twice the time.
KSERVE := .venv-kserve-client
kserve-client: $(KSERVE)/.installed

$(KSERVE)/.installed: requirements/kserve-client.txt
	rm -rf $(KSERVE)
	$(PYTHON) -m venv $(KSERVE)
	$(KSERVE)/bin/python -m pip install --disable-pip-version-check --quiet --no-compile --require-hashes -r $<
	$(KSERVE)/bin/python -c 'import kserve'
	@touch $@

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# BENCH="--quick --only …" passes options on.
bench: $(STAMP)
	$(BIN)/python -m benchmarks $(BENCH)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The messages are registered in a pool of their own; its module says why.
STUBS := app/api/protocols/grpc_stubs
POOL := descriptor_pool as _descriptor_pool
OUT := .
stubs: $(STAMP)
	$(BIN)/python -m grpc_tools.protoc -I . --python_out=$(OUT) --pyi_out=$(OUT) $(STUBS)/*.proto
	sed -i.before 's/^from google.protobuf import $(POOL)$$/from $(subst /,.,$(STUBS)) import $(POOL)/' $(OUT)/$(STUBS)/*_pb2.py
	rm $(OUT)/$(STUBS)/*.before

# Needs uv. One resolution for all platforms and Python versions, with hashes, without index addresses.
LOCK = uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11
PEERS := bentoml litserve mlserver mosec
lock:
	$(LOCK) pyproject.toml --extra dev -o requirements/dev.txt
	$(LOCK) pyproject.toml --extra serve --constraint requirements/dev.txt -o requirements/serve.txt
	$(LOCK) pyproject.toml --extra serve --extra train --constraint requirements/dev.txt -o requirements/train.txt
	$(LOCK) pyproject.toml --extra ray --constraint requirements/dev.txt -o requirements/ray.txt
	$(LOCK) requirements/kserve-client.in -o requirements/kserve-client.txt
	$(foreach peer,$(PEERS),$(LOCK) benchmarks/peers/$(peer).in -o requirements/bench-$(peer).txt &&) true

clean:
	rm -rf $(VENV) $(KSERVE) .mypy_cache .ruff_cache .pytest_cache
