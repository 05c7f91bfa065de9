# SPDX-License-Identifier: Apache-2.0
#
# The front door. Each target installs what it lacks (tools/bootstrap) and then
# calls Meson or a script in tools/; the work is there, not here.

export PYTHON ?= /usr/bin/python3
export PATH := $(CURDIR)/build/venv/bin:$(PATH)

.PHONY: help build test test-fast bench lint format run install clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

build: ## build the library and the command in build/gcc
	@tools/bootstrap build
	@tools/build gcc

test: ## all tests: gcc, clang, sanitizers, Python, mutants
	@tools/bootstrap build test
	@tools/run_tests

test-fast: ## the unit tests, under a minute
	@tools/bootstrap build
	@tools/build gcc
	@meson test -C build/gcc --no-rebuild --suite fast --print-errorlogs

bench: ## the benchmarks: a table, build/bench.json and plots
	@tools/bootstrap build test
	@tools/run_bench

lint: ## layout, style, layers
	@tools/bootstrap build lint
	@tools/run_lint

format: ## rewrite the sources as `make lint` wants them
	@tools/bootstrap build lint
	@tools/run_lint --fix

run: ## start the example scan service
	@tools/bootstrap build run
	@tools/run_example

install: build ## install the library, header and command (PREFIX, DESTDIR)
	$(if $(PREFIX),@meson configure build/gcc --prefix=$(PREFIX))
	@meson install -C build/gcc --quiet
	@# The loader finds a library in a new place by its cache, which is root's.
	@[ -n "$(DESTDIR)" ] || [ "$$(id -u)" -ne 0 ] || /sbin/ldconfig

clean: ## remove build/
	@rm -rf build
