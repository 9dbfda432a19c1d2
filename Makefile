# Needs Python 3.11 or newer, make and a package index; everything else goes into virtual environments beside this file.
#
#   make demo      see what loradoctor is for: lint and check over fixtures/
#   make test      everything a change must pass
#   make evidence  what is too slow for every change: the older PEFT and transformers, installed hooks, benchmarks
#   make readme    write the rule table and the examples into README.md again

PYTHON ?= python3
VENV ?= .venv
OLD ?= .venv-old
JOBS ?= 2
PIP := -m pip install --quiet --disable-pip-version-check

.PHONY: demo test evidence readme clean

demo: $(VENV)/.ready
	@sh tools/demo.sh $(VENV)/bin/loradoctor

test: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(JOBS)

evidence: $(VENV)/.ready $(OLD)/.ready
	$(OLD)/bin/python -m pytest -n $(JOBS) -m "evidence or not evidence" tests/checkpoint/test_target_modules.py tests/merge tests/oracle tests/plugin
	LORADOCTOR_OLD_PYTHON=$(abspath $(OLD)/bin/python) $(VENV)/bin/python -m pytest -m evidence
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/catalogue_cases.py --output $$(mktemp -d)
	$(VENV)/bin/python benchmarks/lint_speed.py
	$(VENV)/bin/python benchmarks/check_speed.py

readme: $(VENV)/.ready
	$(VENV)/bin/python tools/readme.py

clean:
	rm -rf $(VENV) $(OLD)

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "loradoctor needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	@echo "setting up $(VENV): the first time this takes some minutes, torch is large"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python $(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

$(OLD)/.ready: pyproject.toml constraints-old.txt
	@echo "setting up $(OLD) with the oldest supported PEFT and transformers"
	@$(PYTHON) -m venv $(OLD)
	@$(OLD)/bin/python $(PIP) -c constraints-old.txt -e '.[torch]' hypothesis pytest pytest-xdist
	@touch $@
