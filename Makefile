# `make` alone prepares the development environment in .venv; `make help` lists the rest.

PREFIX  ?= /usr/local
DESTDIR ?=
PYTHON  ?= $(firstword $(wildcard /usr/bin/python3) python3)
# the lab of `make lab-shell`: uml (a real /dev/cuse, seconds) or vm (systemd too, a minute)
LAB     ?= uml
# of the machine of `make lab-vm` and `make lab-rpm`: enforcing or permissive
LAB_SELINUX ?= enforcing
# how long `make fuzz` looks at each target
SECONDS ?= 600
FUZZ    := control data mssim cuse spaces
# 1: `make install` brings the old command names too, swtpm and its like
COMPAT  ?=
# what `make install` brings along to read; the others are for who changes something
PAGES   := README.md CHANGELOG.md $(filter-out docs/releasing.md docs/testing.md,$(wildcard docs/*.md))
# where `make selinux` builds
SELINUX ?= build/selinux
# for pytest, as in: make test ARGS='-k cuse -x'
ARGS    ?=
# how many processes run tests; 0: only make's own, as --pdb and -s want it
JOBS    ?= auto

BIN     := .venv/bin
SHELL   := /bin/bash
SCRIPTS := $(wildcard tools/*.sh packaging/*.sh tests/lab/*.sh tests/lab/guest/*.sh tests/lab/qemu/*.sh tests/lab/uml/*.sh tests/lab/rpm/*.sh tests/tmt/*.sh tools/run-demo .ci/run packaging/libexec/vtpm-attach packaging/libexec/vtpm-end-sockets packaging/ima/* packaging/completion/bash/*)

.DEFAULT_GOAL := env
.PHONY: env run test test-oldest test-swtpm lint lab lab-all lab-qemu lab-uml lab-vm lab-rpm lab-shell bench fuzz completion install rpm selinux release-check clean distclean help

env: .venv/.ready ## the development environment: .venv with the package, its extension and all tools (the default)

# the extension is compiled by the package's own build, so whatever decides about it is named here
.venv/.ready: pyproject.toml setup.py swtpm_svc/tpm/_build.py swtpm_svc/tpm/binding.c swtpm_svc/tpm/confinement.c swtpm_svc/tpm/device.c swtpm_svc/tpm/system_calls.c swtpm_svc/tpm/watcher.c tools/need.sh
	@tools/need.sh build
	@[ -x $(BIN)/python ] || { echo "== $(PYTHON) -m venv .venv"; $(PYTHON) -m venv .venv; }
	@echo "== pip install -e .[test,dev]"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[test,dev]' </dev/null
	@touch $@
	@echo "ready: $(BIN)/vtpmd, $(BIN)/vtpmctl, make test, make run"

run: env ## bring up a TPM 1.2 and a TPM 2.0, talk to both, stop; KEEP=1 leaves them running, FRONTEND=unit|uml|fuse chooses
	@FRONTEND=$(FRONTEND) tools/run-demo $(if $(KEEP),--keep)

test: env ## unit and integration tests on this machine (ARGS=...: pytest's arguments; JOBS=0: no other processes)
	@tools/need.sh test
	@$(BIN)/python -m pytest -n $(JOBS) --maxprocesses 8 --dist worksteal --durations 10 $(ARGS)

test-oldest: env ## the unit tests under Python 3.9, the oldest that the package takes (Debian 11's, unpacked; ARGS as for test)
	@tools/need.sh build test
	@tests/lab/python39.sh $(ARGS)

test-swtpm: env ## state that goes to and fro between us and the newest swtpm (sid's, unpacked; ARGS as for test)
	@tools/need.sh test
	@tests/lab/newest-swtpm.sh $(ARGS)

lint: env ## ruff, mypy --strict, codespell, vulture, shellcheck
	@tools/need.sh lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/vulture
	shellcheck -x $(SCRIPTS)

lab: lab-qemu lab-uml lab-vm lab-rpm ## all labs

lab-all: lab-qemu lab-uml ## the whole matrix, before a release (hours): every suite, in User-Mode Linux and in QEMU
	@for suite in bookworm trixie sid; do for machine in uml qemu; do for lab in lab-vm lab-rpm; do \
	  echo "== SUITE=$$suite LAB_MACHINE=$$machine make $$lab"; \
	  SUITE=$$suite LAB_MACHINE=$$machine $(MAKE) -s $$lab || exit; done; done; done

lab-qemu: env ## tests/lab/qemu: guests of QEMU and libvirt with our TPMs, migration (no KVM needed)
	@tools/need.sh qemu
	@$(BIN)/python -m pytest -p no:cacheprovider tests/lab/qemu $(ARGS)

lab-uml: env ## tests/lab/uml in User-Mode Linux: a real /dev/cuse
	@tools/need.sh uml test
	@LAB_KERNEL="$$(tests/lab/qemu/kernel.sh)" LAB_ENV="$$LAB_ENV LAB_KERNEL" \
	  tests/lab/uml.sh -v -t 1200 python -m pytest -p no:cacheprovider tests/lab/uml $(ARGS)

lab-vm: ## tests/lab/vm in a machine with systemd and SELinux enforcing (SUITE=trixie: Debian 13 instead of 12; LAB_MACHINE=qemu)
	@tools/need.sh vm
	@LAB_SELINUX=$(LAB_SELINUX) tests/lab/vm.sh -t 2700 python3 -m pytest --durations=25 -p no:cacheprovider tests/lab/vm $(ARGS)

lab-rpm: ## the RPM in such a machine: dnf install, upgrade under load, remove, a reboot, and in QEMU IMA in force (SUITE as for lab-vm)
	@tools/need.sh vm
	@LAB_SELINUX=$(LAB_SELINUX) tests/lab/rpm.sh $(ARGS)

lab-shell: env ## a root shell in a lab (LAB=uml or LAB=vm)
	@tools/need.sh $(LAB)
	@tests/lab/$(LAB).sh

bench: env ## the benchmarks, as ratios and microseconds
	@tools/need.sh uml test install
	@for file in benchmarks/bench_*.py; do [ ! -f "$$file" ] || $(BIN)/python "$$file" || exit; done

fuzz: env ## the front ends under atheris, SECONDS=600 for each of FUZZ="control data mssim cuse spaces"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[fuzz]' </dev/null
	@for target in $(FUZZ); do echo "== $$target"; $(BIN)/python tests/fuzz/run.py "$$target" -max_total_time=$(SECONDS) || exit; done

completion: env ## packaging/completion from the tables of commands, after a change of one: bash, zsh, fish
	@$(BIN)/python tools/make_completion.py

install: ## install for this system's Python (DESTDIR, PREFIX; PYTHON; COMPAT=1: swtpm's command names too): package, commands, units, udev rule, man pages, completion
	@tools/need.sh install
	$(PYTHON) tools/install_package.py $(if $(filter-out 0 no,$(COMPAT)),--classic) "$(PREFIX)" "$(DESTDIR)"
	DESTDIR="$(DESTDIR)" LIBEXECDIR="$(PREFIX)/libexec/vtpm" PYTHON="$(PYTHON)" packaging/install-systemd.sh
	$(if $(filter-out 0 no,$(COMPAT)),DESTDIR="$(DESTDIR)" BINDIR="$(PREFIX)/bin" packaging/install-classic.sh)
	@for page in docs/man/*.[1-8] $(if $(filter-out 0 no,$(COMPAT)),docs/man/classic/*.[1-8]); do [ ! -f "$$page" ] || \
	  install -D -m 644 "$$page" "$(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$${page##*/}" || exit; done
	@for page in $(PAGES); do install -D -m 644 "$$page" "$(DESTDIR)$(PREFIX)/share/doc/python3-swtpm/$$page" || exit; done
	@install -D -m 644 -t "$(DESTDIR)$(PREFIX)/share/bash-completion/completions" packaging/completion/bash/*
	@install -D -m 644 -t "$(DESTDIR)$(PREFIX)/share/zsh/site-functions" packaging/completion/zsh/*
	@install -D -m 644 -t "$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d" packaging/completion/fish/*

rpm: ## build/rpm: source and binary RPMs, built in the lab's build root (SUITE as for lab-vm)
	@tools/need.sh vm
	@tests/lab/rpm-build.sh build/rpm

selinux: ## the SELinux policy module, build/selinux/vtpm.pp, which may allow no more than packaging/swtpm.allowed lists
	@tools/need.sh selinux
	@mkdir -p "$(SELINUX)"
	@for part in te fc if; do cp "packaging/swtpm.$$part" "$(SELINUX)/vtpm.$$part" || exit; done
	@$(MAKE) -s -C "$(SELINUX)" -f /usr/share/selinux/devel/Makefile vtpm.pp
	@/usr/libexec/selinux/hll/pp "$(SELINUX)/vtpm.pp" "$(SELINUX)/vtpm.cil"
	@$(PYTHON) tools/selinux_allowed.py "$(SELINUX)/vtpm.cil" packaging/swtpm.allowed

release-check: env ## is this checkout what a release is tagged from? (docs/releasing.md)
	@tools/need.sh lint
	@$(BIN)/python tools/release_check.py

clean: ## remove what builds and tests leave (not .venv, nor the lab's images)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis swtpm_svc/tpm/_libtpms*.so swtpm_svc/tpm/_libtpms.c
	rm -f .venv/.ready
	find swtpm_svc tests benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove .venv and the lab's images too
	rm -rf .venv
	tests/lab/vm-image.sh --remove

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
