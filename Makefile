# `make demo` and `make test` do everything on a fresh machine with Python 3.11, 3.12 or 3.13; `make help` lists the rest.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || echo python3.11)
VENV := .venv
PY := $(VENV)/bin/python
CONFIG ?= config/demo.yaml
DEMO_PKI := logs/demo-pki
MEASURED := docs/measured/performance
DEMO_FLOWS := logs/demo-flows
DEMO_CLIENTS := logs/demo-clients.log
N ?= 100
SIMULATION_PKI := logs/simulation-pki-$(N)

# Without this a machine that sets it has every process of the tests compile all modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo simulate peek test test_long test_newest schedules faults fuzz fuzz_readers load siege bench attacks private lint \
	format settings lock sbom audit_dependencies clean

help:  ## list what can be made
	@grep -hE '^[a-z_]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

demo: $(VENV)/installed $(DEMO_PKI)/enrolled.json $(DEMO_FLOWS)/public.csv  ## three masked tenants, each alone and all together, and what it brought
	@$(PY) client/run_clients.py --config $(CONFIG) --executor thread >$(DEMO_CLIENTS) 2>&1 & clients=$$!; \
	trap 'kill $$clients 2>/dev/null' EXIT; trap 'exit 130' INT TERM; \
	$(PY) orchestrator/run_server.py --config $(CONFIG) && wait $$clients || { cat $(DEMO_CLIENTS); exit 1; }
	@$(PY) benchmarks/local_vs_federated.py --run logs/latest
	@echo 'score new flows: $(PY) client/score.py --model logs/latest --input $(DEMO_FLOWS)/today.csv --output logs/alerts.jsonl'

$(DEMO_PKI)/enrolled.json: | $(VENV)/installed
	@$(PY) orchestrator/provision.py --clients 3 --days 3650 --out $(DEMO_PKI) >/dev/null

$(DEMO_FLOWS)/public.csv: benchmarks/example_flows.py | $(VENV)/installed
	@$(PY) benchmarks/example_flows.py --out $(DEMO_FLOWS) >/dev/null

simulate: $(VENV)/installed-simulation $(SIMULATION_PKI)/enrolled.json  ## N tenants on Flower's simulation engine, masked: make simulate N=100
	@$(PY) benchmarks/simulate.py --tenants $(N) --pki $(SIMULATION_PKI)

$(SIMULATION_PKI)/enrolled.json: | $(VENV)/installed
	@$(PY) orchestrator/provision.py --clients $(N) --days 3650 --out $(SIMULATION_PKI) >/dev/null

peek: $(VENV)/installed  ## play an orchestrator that tries to open one client's update, and to override its policy
	@$(PY) benchmarks/peek.py

test: $(VENV)/installed-dev  ## run the tests
	$(PY) -m pytest -n 3 --dist worksteal -m "not long"

test_long: $(VENV)/installed-dev  ## run the tests of whole federations that fail, restart and mask; some minutes more
	$(PY) -m pytest -n 2 -m long

test_newest: $(VENV)/installed-dev  ## the two terminals on the newest Flower that there is, whatever is pinned here
	$(PY) -m pip install --quiet --upgrade --target $(VENV)/newest flwr
	PYTHONPATH=$(VENV)/newest $(PY) -c "from importlib.metadata import version; print('on Flower', version('flwr'))"
	PYTHONPATH=$(VENV)/newest $(PY) -m pytest -n 2 -m "not long" tests/test_two_terminals.py

fuzz: $(VENV)/installed-dev  ## a million mutated inputs against whatever reads a client's bytes; some minutes
	$(PY) -m tests.fuzz_decoder --inputs 1000000 --seed 1

fuzz_readers: $(VENV)/installed-dev  ## 20,000 mutated files against the readers of logs and tables; ten minutes
	$(PY) -m tests.fuzz_readers --inputs 20000 --seed 1

schedules: $(VENV)/installed-dev  ## 2 x 2,500 masked rounds of 3 to 12 clients with random losses; prints the tally, 3 minutes
	MASKING_SCHEDULES=2500 $(PY) -m pytest -s -m "not long" tests/test_masking_rounds.py -k exact_sum --timeout 3600

faults: $(VENV)/installed-dev  ## the fault simulation at length: a server killed 50 times (minutes)
	FAULT_KILLS=50 $(PY) -m pytest tests/test_faults.py tests/test_checkpoint.py --timeout 1200

load: $(VENV)/installed-dev  ## 100 clients, 5 rounds on this machine (minutes); figures in logs/load
	$(PY) benchmarks/load.py

siege: $(VENV)/installed-dev  ## strangers at the port of a federation at work, and at Flower's own server (minutes); figures in logs/siege
	$(PY) benchmarks/siege.py

lint: $(VENV)/installed-dev  ## ruff and mypy --strict
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(PY) -m mypy

format: $(VENV)/installed-dev  ## let ruff rewrite what it can
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

settings: $(VENV)/installed  ## write docs/settings.md and config/schema.json anew, after a change of a setting
	$(PY) -m shared.settings_docs

bench: $(VENV)/installed-bench  ## measure against phe, TenSEAL and HEU; refreshes docs/measured, 25 minutes; ONLY=rounds,memory: these alone
	$(PY) benchmarks/run.py --only "$(ONLY)" --json $(MEASURED).json --markdown $(MEASURED).md --picture $(MEASURED).png

attacks: $(VENV)/installed-bench  ## bad tenants with and without defences, on NSL-KDD; goes on where it was stopped; an hour
	$(PY) benchmarks/poisoning.py --workers 2 --json logs/attacks.json --markdown docs/measured/attacks.md --picture docs/measured/attacks.png

private: $(VENV)/installed-bench  ## what the noise of `privacy: records` costs, on NSL-KDD; goes on where it was stopped; an hour
	$(PY) benchmarks/private.py --workers 2 --json logs/private.json --markdown docs/measured/privacy.md --picture docs/measured/privacy.png

lock: $(VENV)/installed  ## write requirements.lock anew: every package that is installed with this project, by version and hash
	@mkdir -p build
	$(PY) -m pip freeze --exclude-editable | grep -v '[@+]' >build/tested.txt
	grep -v '^-e' requirements.txt >build/wanted.txt
	$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-config --no-annotate \
		--index-url https://pypi.org/simple --custom-compile-command 'make lock' \
		--constraints build/tested.txt --output-file requirements.lock build/wanted.txt

sbom: $(VENV)/installed $(VENV)/tools/installed  ## what is installed here, with licences, as CycloneDX: build/sbom.json
	@mkdir -p build
	$(VENV)/tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file build/sbom.json $(PY)

audit_dependencies: $(VENV)/tools/installed  ## look up each package of requirements.lock among the known vulnerabilities, on the network
	$(VENV)/tools/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock

clean:  ## remove the environment and caches; runs in logs/ stay
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# torch first and by its exact version: whatever depends on it would otherwise bring a build of its own choice.
$(VENV)/installed: requirements.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 to 3.13, or name it: make PYTHON=..."; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet "$$(grep '^torch==' requirements.txt)"
	$(PY) -m pip install --quiet -r requirements.txt
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PY) -m pip install --quiet -e ".[dev]"
	@touch $@

$(VENV)/tools/installed: deploy/tools.txt | $(VENV)/installed
	$(PYTHON) -m venv $(VENV)/tools
	$(VENV)/tools/bin/python -m pip install --quiet -r deploy/tools.txt
	@touch $@

# Flower packs the folder that it is run in, and the app imports what is installed: this very project.
$(VENV)/installed-simulation: $(VENV)/installed
	$(PY) -m pip install --quiet -e ".[simulation]"
	@touch $@

$(VENV)/installed-bench: $(VENV)/installed benchmarks/requirements.txt
	$(PY) -m pip install --quiet -r benchmarks/requirements.txt
	@touch $@
