# The two commands a newcomer types are `make demo` and `make test`. Everything here can be typed by hand: see README.md.

VENV ?= .venv
PYTHON ?= python3
RUN := $(VENV)/bin
# Two at a time, of one thread each: every test has folders and ports of its own.
PYTEST = OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n 2 --dist worksteal
# What torch and its kernels do on a processor without AVX.
LESSER := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41
HOSTILE = OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 PYTHONPATH=.:tests:tests/faults $(RUN)/python

.PHONY: demo test test-all test-bits test-lesser test-lowest test-faults fuzz style check bench help

help:  ## What there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

# An editable install with the development tools; made again whenever the declared dependencies change.
$(VENV)/installed: pyproject.toml setup.cfg
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(VENV)/installed  ## The whole road on a synthetic site, offline, in minutes: figures and pictures in demo/
	$(RUN)/hf-detr-panoptic demo

test: $(VENV)/installed  ## The quick tests, a few minutes on two cores
	$(PYTEST) -m 'not slow'

test-all: $(VENV)/installed  ## Every test
	$(PYTEST)

test-bits: $(VENV)/installed  ## The quick tests that compare maps, logits or weights, as on a lesser processor
	$(LESSER) $(PYTEST) -m 'bits and not slow'

test-lesser: $(VENV)/installed  ## All quick tests, as on a lesser processor
	$(LESSER) $(PYTEST) -m 'not slow'

test-lowest:  ## The quick tests under the lowest versions that pyproject.toml allows
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python tests/lowest_versions.py > .venv-lowest/requirements.txt
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -r .venv-lowest/requirements.txt --editable '.[dev]'
	.venv-lowest/bin/python -m pytest -m 'not slow'

test-faults: $(VENV)/installed  ## TRIALS=30 commands, killed, without room, two at once …: each run again, and compared
	$(HOSTILE) tests/faults/faults.py --trials $(or $(TRIALS),30) --seed $(or $(SEED),0)

fuzz: $(VENV)/installed  ## CASES=200 hostile photos, JSON, XML, zips, YAML, models, datasets, runs, names
	$(HOSTILE) tests/faults/fuzz.py --cases $(or $(CASES),200) --seed $(or $(SEED),0)

style: $(VENV)/installed  ## Put the code into shape
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

check: $(VENV)/installed  ## Lint, format and types, changing nothing
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

# What takes hours, or wants a model or programs of its own: their first lines say how they are run.
BY_HAND := $(addprefix %/,measure.py gpu_bench.py gpu_right.py gpu_fast.py gpu_loop.py demo_ablation.py next_photos.py \
	page.py transformers_js.py random_model.py real_photos.py)

bench: $(VENV)/installed  ## Every benchmark that needs nothing but time, one after the other
	for script in $(filter-out $(BY_HAND),$(sort $(wildcard benchmarks/*.py))); do echo "== $$script"; $(RUN)/python $$script || exit 1; done
