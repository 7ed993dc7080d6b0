# make demo   two real models compiled, run and compared, in a virtual environment of its own
# make test   lint, types and tests
# make conformance   all of ONNX's backend suite
# make bench  every speed figure measured again beside ONNX Runtime and OpenVINO, on a quiet
#             machine; MODELS="a.onnx b.onnx" adds models
# make bench-tuning   every shape tuned for SECONDS=60, eight beside MetaSchedule's own search of
#             TRIALS=48; both go on where they were. MODELS="a.onnx b.onnx" tunes those for MINUTES=40
# make fuzz   mutated models for SECONDS=600, from SEED=0
# make docs   generated text in docs/ written again
# make clean  everything that was made

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test conformance bench bench-tuning docs clean

demo: $(VENV)/demo.installed
	$(BIN)/python examples/demo.py

test: $(VENV)/test.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pytest

conformance: $(VENV)/test.installed
	ATHANOR_CONFORMANCE=all $(BIN)/pytest -q tests/conformance

bench: $(VENV)/bench.installed
	$(BIN)/python bench/run.py $(MODELS)
	$(BIN)/python bench/bandwidth.py --output bench/bandwidth.md

bench-tuning: $(VENV)/bench.installed
	$(BIN)/python bench/tuning.py --seconds $(or $(SECONDS),60)
	$(BIN)/python bench/tuning_stock.py --trials $(or $(TRIALS),48)
	$(if $(MODELS),$(BIN)/python bench/tuning_models.py $(MODELS) --minutes $(or $(MINUTES),40))

fuzz: $(VENV)/test.installed
	$(BIN)/python tests/fuzz/fuzz.py --seconds $(or $(SECONDS),600) --seed $(or $(SEED),0) --suite \
		--keep build/findings

docs: $(VENV)/test.installed
	$(BIN)/python docs/make_how_it_works.py
	$(BIN)/python docs/make_operators.py
	$(BIN)/python docs/make_conformance.py

clean:
	rm -rf $(VENV) .venv-ci build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# An install is a copy: it is made again when a source file has changed, so that what is tested is
# what a user gets.
SOURCES = $(shell find compiler frontends runtime schedules targets tuning -type f \
	-not -path '*/__pycache__/*') pyproject.toml $(wildcard setup.py MANIFEST.in)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.installed: $(BIN)/python $(SOURCES)
	rm -rf build
	$(BIN)/python -m pip install --quiet '.[examples,onnxruntime]'
	touch $@

$(VENV)/bench.installed: $(BIN)/python $(SOURCES)
	rm -rf build
	$(BIN)/python -m pip install --quiet '.[onnxruntime,openvino,tuning,tracker]'
	touch $@

$(VENV)/test.installed: $(BIN)/python $(SOURCES)
	rm -rf build
	$(BIN)/python -m pip install --quiet '.[dev]'
	touch $@
