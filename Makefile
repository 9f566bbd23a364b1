# Everything that the README names. `make run` and `make test` need python3 >= 3.11 with venv, and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= etc/accessgw.toml
BENCHES := $(filter-out __init__ report,$(basename $(notdir $(wildcard loadtest/bench/bench_*.py))))
SOURCES := setup.cfg setup.py pyproject.toml $(wildcard protocols/_native/*.[ch] accessgw/transports/_native/*.c)

.PHONY: run test install lint demo bench docs docs-wire clean help $(BENCHES:bench_%=bench-%)

help:
	@echo "make run      start the gateway in the foreground ($(CONFIG))"
	@echo "make test     run the tests"
	@echo "make demo     a tour: connect, call, push, lose the connection, recover; MQTT devices"
	@echo "make bench    every benchmark; also: $(BENCHES:bench_%=bench-%)  (JSON=path SEED=n; bench writes path-NAME.json)"
	@echo "make lint     ruff and mypy"
	@echo "make install  only .venv and the project"
	@echo "make docs     write the generated pages of docs/ again; make docs-wire: the table and chart of bytes on the wire"

install: $(VENV)/.installed

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else "accessgw needs Python 3.11 or newer, this is %d.%d; choose another with: make PYTHON=python3.12 ..." % v[:2])'
	@echo "making $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "python3 -m venv failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

$(VENV)/.installed: $(VENV)/bin/python $(SOURCES)
	@echo "installing accessgw and what it needs (about a minute the first time) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check 'setuptools>=68' wheel
	@PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --disable-pip-version-check --editable . --no-build-isolation --config-settings editable_mode=compat
	@$(BIN)/pip install --quiet --disable-pip-version-check --only-binary :all: 'httptools>=0.6' \
		|| echo "no httptools for this machine: h11 parses HTTP, which is slower"
	@touch $@

$(VENV)/.test: $(VENV)/.installed
	@echo "installing the test extra ..."
	@PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]' --no-build-isolation --config-settings editable_mode=compat
	@touch $@

$(VENV)/.lint: $(VENV)/.installed
	@echo "installing the lint extra ..."
	@PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[lint]' --no-build-isolation --config-settings editable_mode=compat
	@touch $@

run: $(VENV)/.installed
	@exec $(BIN)/twistd --nodaemon --pidfile= accessgw --config $(CONFIG)

test: $(VENV)/.test
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.test $(VENV)/.lint
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

demo: $(VENV)/.installed
	@$(BIN)/python -c 'import sys, importlib.util as i; sys.exit(i.find_spec("amqtt") is None)' || { \
		echo "installing the demo extra (amqtt, the client of the MQTT devices) ..."; \
		$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[demo]' --no-build-isolation \
			--config-settings editable_mode=compat || echo "amqtt could not be installed: the tour goes without its MQTT devices"; }
	@$(BIN)/python -m accessgw.demo.tour

bench: $(VENV)/.installed
	@for name in $(BENCHES:bench_%=%); do \
		$(MAKE) --no-print-directory bench-$$name $(if $(JSON),JSON=$(JSON:.json=)-$$name.json) || exit 1; \
	done

$(BENCHES:bench_%=bench-%): bench-%: $(VENV)/.installed
	@$(BIN)/python -m loadtest.bench.bench_$* $(if $(JSON),--json $(JSON)) $(if $(SEED),--seed $(SEED))

bench-wire: $(VENV)/.test

docs-wire: $(VENV)/.test
	@$(BIN)/python -m loadtest.bench.bench_wire --docs docs/ops $(if $(SEED),--seed $(SEED))

docs: $(VENV)/.installed
	@$(BIN)/python -m accessgw.config.reference > docs/ops/configuration.md
	@$(BIN)/python -m tests.mqtt_conformance > docs/spec/mqtt-conformance.md

clean:
	rm -rf $(VENV) build dist *.egg-info var twistd.pid
