# Every target sets the environment up first where that is needed: git, make and Python >= 3.11 are enough.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
# dvc runs `python -m stages.NAME`: the environment's python must come first.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: repro test lint preset data remote ladder results estimate verify bench setup

repro: setup ## Reproduce the whole study, then print its table
	dvc repro
	@python -m stages.commands.results

test: setup ## Run the tests
	python -m pytest

setup: $(STAMP)

$(STAMP): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $(STAMP)

lint: setup ## Check style and format
	ruff check .
	ruff format --check .

preset: setup ## make preset NAME=phi2-xsum-t4: overlay a preset on params.yaml, comments kept
	@test -n "$(NAME)" || { echo "usage: make preset NAME=..., one of: $(basename $(notdir $(wildcard presets/*.yaml)))"; exit 2; }
	@python -m stages.commands.preset "$(NAME)"

data: setup ## make data FROM=PATH: use your own articles
	@test -n "$(FROM)" || { echo "usage: make data FROM=PATH, a .jsonl, .csv or .parquet file or a folder with train, validation, test"; exit 2; }
	@python -m stages.commands.data "$(FROM)"

remote: setup ## make remote DIR=PATH: keep data, models and predictions in a folder (a mounted drive)
	@test -n "$(DIR)" || { echo "usage: make remote DIR=PATH"; exit 2; }
	@mkdir -p "$(DIR)"
	@dvc remote add --force --default --local storage "$(abspath $(DIR))"
	@echo "dvc push and dvc pull now use $(DIR) (in .dvc/config.local, which git ignores)"

ladder: setup ## Run the graph on 10, 100, 1,000 and all rows asked for; stop at the first rung that fails
	@python -m stages.commands.ladder

results: setup ## Print the table of the last run and put it into the README
	@python -m stages.commands.results --readme

estimate: setup ## Will it fit, and how long will it take?
	@python -m stages.commands.estimate

verify: setup ## Does this machine give the committed bytes? Runs the whole study in a fresh clone
	@python -m stages.commands.verify

bench: setup ## Speed and memory against what people use today; writes benchmarks/results/
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	python -m benchmarks.generation --output benchmarks/results/generation.json
	python -m benchmarks.training --output benchmarks/results/training.json
