# make         set up, run the default study, write results/report.html
# make test    set up, run the linters and the tests
# make benchmark   training and linearised steps (minutes), the kernel engine against its peers (hours)
# make report  write the report anew from finished results
# make lock    pin the newest versions of all packages (needs uv)
# CONFIG=studies/NAME.yaml runs another study; CORES=4 limits the cores; PYTHON=python3.12 chooses the interpreter.

PYTHON ?= python3
CORES ?= all
CONFIG ?= config.yaml
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
RUN := $(BIN)/snakemake --cores $(CORES) --configfile $(CONFIG)

.PHONY: run report test lint benchmark lock clean

run: $(READY)
	$(RUN)
	@# The report is made anew only when a figure or the summary is newer than it.
	@if [ ! -f results/report.html ] || [ -n "$$(find results \( -path '*/figures/*' -o -name summary.html \) -newer results/report.html -print -quit)" ]; \
	then $(MAKE) --no-print-directory report; fi
	@echo "Report: results/report.html    Figures: results/*/figures/"

report: $(READY)
	$(RUN) --report results/report.html

test: $(READY) lint
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint
	$(BIN)/python workflow/schemas/generate.py --check

benchmark: $(READY)
	-$(BIN)/python benchmarks/training_loop.py
	-$(BIN)/python benchmarks/linearized_step.py
	-$(BIN)/python benchmarks/two_layer.py
	$(BIN)/python benchmarks/entk.py

$(READY): envs/requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; install Python 3.11 or newer, or say make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V); say make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) has no venv module; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@free=$$(df -Pk . | awk 'NR==2 {print int($$4 / 1048576)}'); [ $$free -ge 10 ] || { echo "error: the environment and the default study need 10 GB of disk, $$free GB are free here" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r envs/requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

lock:
	uv pip compile pyproject.toml --extra dev --extra slurm --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --output-file envs/requirements.lock
	sed -i "s/^# requirements.lock sha256:.*/# requirements.lock sha256: $$(sha256sum envs/requirements.lock | cut -d" " -f1)/" envs/twophase.yaml

clean:
	rm -rf $(VENV)
