# `make book` and `make test` go from a bare clone to the result. `make help` lists the rest.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
NB ?=
JOBS ?= 2
TORCH ?= 2.6.0
NUMPY ?= 2.0.2

# Nothing is fetched once the environment stands, and parallel test workers do not fight over the cores.
wide lab execute selftest bench mutants: export HF_HUB_OFFLINE = 1
wide: export OMP_NUM_THREADS ?= 1

.PHONY: help setup book test check weekly wide lint lab exercises selftest execute glue bench mutants colab zip weights handout pdf reproducible links lock clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 17

setup: $(STAMP)  ## install everything into .venv

book: $(STAMP)  ## build the book from the stored outputs into _build/html
	@$(PYTHON) make.py book

lint: $(STAMP)
	@$(PYTHON) make.py lint

test: $(STAMP)  ## check style and types, build the book, run the tests and most notebooks
	@JOBS=$(JOBS) $(PYTHON) make.py test

weekly: wide colab  ## everything too slow to run on each change: wide, and the notebooks as in Colab

wide: lint book  ## every page for everyone, every notebook, long fuzzing
	@$(BIN)/pytest -q -rfEs -n $(JOBS) --dist loadscope -m weekly tests
	@$(BIN)/pytest -q -rfEs -n $(JOBS) --dist loadscope --nbval-lax book exercises/source $(wildcard exercises/*.ipynb)
	@HYPOTHESIS_PROFILE=weekly $(BIN)/pytest -q -n $(JOBS) tests/test_noise.py tests/test_teacher.py tests/test_student.py tests/test_records.py tests/test_fuzz.py

check: $(STAMP)  ## the daily check: style, types, method, training, recipes, command line
	@JOBS=$(JOBS) $(PYTHON) make.py check

lab: $(STAMP)  ## open JupyterLab on the first chapter
	@$(BIN)/jupyter lab $(firstword $(wildcard book/undergraduate/0*.ipynb) book)

exercises: $(STAMP)  ## derive the student, solution and instructor versions from exercises/source
	@$(BIN)/python scripts/book/exercises.py derive

selftest: $(STAMP)  ## show that the graders catch wrong answers and accept right ones
	@$(BIN)/python scripts/book/exercises.py selftest

execute: $(STAMP)  ## run all notebooks and store their outputs (NB=path for one)
	@$(BIN)/python scripts/book/notebooks.py execute $(NB)

glue: $(STAMP)  ## write the numbers of results/ into the {result} roles of the text
	@$(BIN)/python scripts/book/notebooks.py glue $(NB)

bench: book  ## measure what the book quotes, into results/ (needs Chromium)
	@$(BIN)/python scripts/bench/bench.py
	@$(BIN)/python scripts/bench/bench_browser.py

mutants: $(STAMP)  ## show that each wrong formula fails a test
	@$(BIN)/python tests/mutants.py

colab: $(STAMP)  ## run the notebooks with another torch and numpy, as Colab does (fetches 3 GB; NB=path for one)
	@$(BIN)/python scripts/book/colab_test.py --torch "$(TORCH)" --numpy "$(NUMPY)" $(NB)

zip: book  ## pack the built book, to read offline
	@$(BIN)/python scripts/book/release.py zip

weights: $(STAMP)  ## pack the course's weights with their records
	@$(BIN)/python scripts/book/release.py weights

handout: book  ## pack what students get: notebooks, package, book and points
	@$(BIN)/python scripts/book/handout.py

pdf: book  ## print the built book to one PDF (needs Chromium)
	@$(BIN)/python scripts/book/release.py pdf

reproducible: $(STAMP)  ## build the book twice and compare every file
	@$(BIN)/python scripts/book/reproducible.py

links: $(STAMP)  ## check the links to other sites (needs the network)
	@$(BIN)/jupyter-book build . --builder linkcheck -q

lock: $(STAMP)  ## pin requirements.txt again from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --no-header -o requirements.txt

clean:  ## remove everything that was built; the environment stays
	rm -rf _build .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage

# What it takes is written down in make.py, which also runs where there is no make.
$(STAMP): requirements.txt pyproject.toml make.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python >= 3.11 is needed, found $$($(PYTHON) --version 2>/dev/null || echo nothing) as '$(PYTHON)'."; \
	  echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) make.py setup
