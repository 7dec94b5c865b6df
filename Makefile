# make demo: all the set-up, then the sample trace becomes records.   make test: all the set-up, then the tests.
# make install: the command and the service, for all users (PREFIX, DESTDIR); make rollback, to the release before;
# make uninstall.
# make soak: a day of the daemon in ten minutes; does anything grow?
# make fuzz: random search for faults, for ten minutes. MINUTES=60 or FRAMES=10000000 say otherwise.
# make docs: the documentation site, in build/site.   make pictures: those of the README and the site, drawn again.
# make bench: the figures of the project, which take an hour; BENCH='--quick --only inserts' sees that they run.
# make lint, clean.   PYTHON=/path/to/python chooses the interpreter (3.11 or newer).

VENV := .venv
BIN := $(VENV)/bin
WHEEL := dist/.built
SENSOR := dist/trafficrefinery-*.whl
LAB := dist/trafficrefinery_lab-*.whl
# Folders too: their times tell of files that were removed.
SOURCES := pyproject.toml README.md LICENSE lab/pyproject.toml lab/README.md \
	$(shell find trafficrefinery features configs lab/trafficrefinery_lab -not -name '*.pyc' -not -name __pycache__)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# The installed wheel runs, not the checkout: neither by way of the working directory nor of the caller's settings.
export PYTHONSAFEPATH := 1
unexport PYTHONPATH
# Real peers that the tests speak to, and what live tests are made with: commands, and their Debian packages.
COUNTERPARTS := tshark tcpreplay ethtool ip=iproute2 nginx nats-server prometheus promtool=prometheus strace \
	systemctl=systemd systemd-analyze=systemd setpriv=util-linux mount chromium softflowd nfcapd=nfdump zsh fish
PYTEST := $(BIN)/pytest --numprocesses 3

.PHONY: demo test lint bench docs pictures soak fuzz install rollback uninstall clean

demo: $(VENV)/.package
	$(BIN)/trafficrefinery replay samples/video.pcap.zst -c configs/video.json -o demo-output \
		--model lab --model lab-startup --truth samples/video.labels.csv

# The whole suite comes last, so that its closing line is the last line.
test: $(VENV)/.package $(VENV)/.lab $(VENV)/.dev $(VENV)/.counterparts
	TRAFFICREFINERY_JIT=boundscheck $(PYTEST) -m modes
	TRAFFICREFINERY_JIT=off $(PYTEST) -m modes
	$(PYTEST)

lint: $(VENV)/.package $(VENV)/.lab $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python .ci/dead_code.py

bench: $(VENV)/.package $(VENV)/.lab $(VENV)/.dev
	PYTHONPATH=benchmarks $(BIN)/python benchmarks/run.py $(BENCH)

# The reference pages come from the code; a broken link is an error.
docs: $(VENV)/.package $(VENV)/.lab $(VENV)/.docs
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

pictures: $(VENV)/.package
	$(BIN)/python docs/pictures.py

soak: $(VENV)/.package $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python tests/support/soak.py

# With a time, the Hypothesis tests run beside it with random examples.
fuzz: $(VENV)/.package $(VENV)/.lab $(VENV)/.dev
	$(BIN)/python tests/support/fuzz/run.py $(if $(FRAMES),--frames $(FRAMES)) $(if $(MINUTES),--minutes $(MINUTES))

install: $(WHEEL)
	systemd/install install $(BIN)/python $(SENSOR)

rollback:
	systemd/install rollback

uninstall:
	systemd/install uninstall

clean:
	rm -rf $(VENV) dist build demo-output docs/reference docs/results .cache .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created: .ci/setup
	.ci/setup $(VENV)
	$(PIP) install 'pip>=24'
	touch $@

$(VENV)/.counterparts: $(VENV)/.created
	.ci/setup $(VENV) $(COUNTERPARTS)
	touch $@

$(WHEEL): $(SOURCES) $(VENV)/.created
	rm -rf dist
	$(PIP) wheel --no-deps --wheel-dir dist . ./lab
	touch $@

# First what the package needs, then the package itself, again even where its version is the same.
$(VENV)/.package: $(WHEEL)
	$(PIP) install $(SENSOR)
	$(PIP) install --no-deps --force-reinstall $(SENSOR)
	touch $@

# The lab is a wheel of its own, which nothing of the package needs.
$(VENV)/.lab: $(WHEEL) | $(VENV)/.package
	$(PIP) install $(LAB)
	$(PIP) install --no-deps --force-reinstall $(LAB)
	touch $@

# One after another, as each installs into the same environment.
$(VENV)/.dev: pyproject.toml | $(VENV)/.package $(VENV)/.lab
	$(PIP) install "$$(echo $(SENSOR))[dev]"
	touch $@

$(VENV)/.docs: pyproject.toml | $(VENV)/.package
	$(PIP) install "$$(echo $(SENSOR))[docs]"
	touch $@
