# Every target does its own set-up: it makes .venv from requirements-dev.lock, again whenever that
# changes. It takes Python 3.11 or newer and a package index; uv is used when it is there.

PYTHON = python3
ARGS =
PROJECT =
LONG =

VENV_PYTHON := .venv/bin/python
COMPILE = .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-annotate --no-header $(ARGS)

# One make installs at a time. The system frees the lock when its shell ends, also by a kill.
LOCK = exec 9<>requirements-dev.lock && "$(PYTHON)" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'

# What another project's environment has set must not reach this one.
unexport PYTHONHOME PYTHONPATH PYTHONSAFEPATH VIRTUAL_ENV PIP_PREFIX PIP_TARGET PIP_USER

# uv does not read pip's setting, and trusts the system's certificates, as pip does, only if asked.
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
export UV_SYSTEM_CERTS ?= true

.PHONY: help demo test prove chaos scale bench lint lock pictures clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

demo: .venv/ready ## make a project with the default answers in demo/, and serve it
	@echo "making demo/, a project with the default answers"
	@if test -e demo/.venv/ready; then cp demo/requirements-dev.lock demo/.venv/; fi
	@$(VENV_PYTHON) -m cookiecutter --no-input --default-config --overwrite-if-exists . \
	  project_slug=demo >/dev/null
	@# The same lock file with a new date must not install everything again.
	@if cmp -s demo/requirements-dev.lock demo/.venv/requirements-dev.lock; then \
	  touch demo/.venv/ready; fi
	@# With this directory's uv, its packages are installed sooner.
	@exec env PATH="$$PATH:$(CURDIR)/.venv/bin" $(MAKE) --no-print-directory --directory demo run

test: .venv/ready ## run the tests; ARGS='-k "jwt and not redis"' picks some
	$(VENV_PYTHON) -m pytest --numprocesses auto --dist loadgroup --no-loadscope-reorder $(ARGS)

prove: .venv/ready ## prove the engine of PROJECT=path; ARGS="-k fuzz" picks, LONG=1 fuzzes more
	@$(VENV_PYTHON) -m proof prove --project "$(PROJECT)" $(if $(LONG),--long) -- $(ARGS)

chaos: .venv/ready ## break Redis, nodes and connections of PROJECT=path; ARGS="--seconds 9 --seed 7"
	@$(VENV_PYTHON) -m proof chaos --project "$(PROJECT)" -- $(ARGS)

scale: .venv/ready ## measure the cost of Redis operations for PROJECT=path; ARGS="--shards 1"
	@$(VENV_PYTHON) -m proof scale --project "$(PROJECT)" -- $(ARGS)

bench: .venv/ready ## measure PROJECT=path beside other servers; ARGS=--full more, --only=echo less
	@$(VENV_PYTHON) -m benchmarks --project "$(PROJECT)" $(ARGS)

lint: .venv/ready ## check format, style and types of the template's own code
	$(VENV_PYTHON) -m ruff format --check benchmarks hooks proof scripts tests
	$(VENV_PYTHON) -m ruff check benchmarks hooks proof scripts tests
	$(VENV_PYTHON) -m mypy

lock: .venv/ready ## pin what both pyproject.toml ask for; ARGS=--upgrade takes the newest
	$(COMPILE) --group dev --output-file requirements-dev.lock
	PATH="$(CURDIR)/.venv/bin:$$PATH" $(VENV_PYTHON) -m scripts.lock $(ARGS)
	$(COMPILE) --group bench --output-file requirements-bench.lock
	$(COMPILE) --group bench-full --constraints "{{cookiecutter.project_slug}}/requirements.lock" \
	  --output-file requirements-bench-full.lock

pictures: .venv/ready ## write the pictures of the page to docs/; needs Chromium
	$(VENV_PYTHON) -m scripts.pictures

clean: ## remove what the other targets made
	rm -rf .venv .bench .cache .*_cache demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Also made again if its Python is gone, as after an upgrade of the system.
ifeq ($(realpath $(VENV_PYTHON)),)
.PHONY: .venv/ready
endif
.venv/ready: requirements-dev.lock
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: $(PYTHON) is not Python 3.11 or newer; name one: make PYTHON=python3.11 ..." >&2; \
	  exit 1; }
	@echo "installing requirements-dev.lock into .venv: seconds with uv, a minute with pip"
	@# In a terminal, dots show that it goes on.
	@$(LOCK) || exit; if test $@ -nt requirements-dev.lock && test -x $(VENV_PYTHON); then exit; fi; \
	if test -t 1; then while sleep 1 && kill -0 $$$$; do printf .; done 2>/dev/null 9>&- & fi; \
	rm -rf .venv && \
	if command -v uv >/dev/null; then \
	  uv venv --quiet --no-project --python "$(PYTHON)" .venv && \
	  uv pip install --quiet --python $(VENV_PYTHON) --require-hashes -r requirements-dev.lock; \
	else \
	  "$(PYTHON)" -m venv .venv && \
	  $(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check \
	    --require-hashes -r requirements-dev.lock; \
	fi && touch $@ && echo installed
