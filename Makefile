.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Twice the cores of a small machine: tests and harnesses wait for longer than they compute. Not counted from the cores,
# because a container may have fewer to itself than it sees.
JOBS ?= 4
TOOLS := .tools/bin
SITE := .tools/site
NODE_MODULES := clients/typescript/node_modules/.installed
# Built last.
TYPESCRIPT := clients/typescript/dist/cjs/package.json
EXPRESS := examples/browser/express/node_modules/.installed
BUF := clients/typescript/node_modules/.bin/buf

GRPCURL_VERSION := v1.9.4
PROTOC_GEN_GO_VERSION := v1.36.12
PROTOC_GEN_GO_GRPC_VERSION := v1.6.2
VERSITYGW_VERSION := v1.8.0
AGE_VERSION := v1.3.2
COMPOSE_SPEC_VERSION := v2.16.2
LITESTREAM_VERSION := v0.5.18

# uv is on the PATH, or where scripts/install puts it.
UV := PATH="$$PATH:$(CURDIR)/.tools/uv/bin" uv
LOCK := $(UV) pip compile --quiet --universal --generate-hashes --no-header \
	--no-annotate --no-emit-package metamorph-client

.PHONY: help run test mutants check harness bench abuse torture install tools site generate dist baseline lock base format clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

run: $(VENV)/.installed ## Serve in dev mode on loopback, data under ./data
	@exec $(BIN)/metamorph dev

# By file: what a module's tests share is made once. In the order of their names: ordered by how many tests they have, as
# is usual, the longest files are the last, and have a few tests of a minute.
test: $(VENV)/.installed ## Run the tests, JOBS at a time
	@$(BIN)/pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

# MUTANTS="--count 20 --only chat" and so on, see --help.
mutants: $(VENV)/.installed ## Change conditions of the server at random: do the tests notice?
	@$(BIN)/python -m scripts.mutants $(MUTANTS)

check: $(VENV)/.installed tools ## Lint, types, layers, contract, generated code, docs
	@bash scripts/check

bench: $(VENV)/.installed ## What is claimed about speed and memory, measured side by side
	@$(BIN)/python -m bench $(BENCH)

harness: $(VENV)/.installed ## The short form of the harnesses, and that each finds its mutants
	@$(BIN)/python -m harness --short --mutants --jobs $(JOBS)

abuse: $(VENV)/.installed ## Hostile callers, half an hour of them, and how the server fares
	@$(BIN)/python -m harness abuse

torture: $(VENV)/.installed ## Turns under kill -9, races, upstream trouble and drains, backups, restores and imports: an hour of them
	@$(BIN)/python -m harness torture

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml clients/python/pyproject.toml requirements.lock requirements.build.lock
	@PYTHON="$(PYTHON)" bash scripts/install
	@touch $@

# A machine without Node or Go still runs whatever needs neither; CI has both.
tools: $(SITE)/.installed $(if $(CI)$(shell command -v npm),$(NODE_MODULES) $(TYPESCRIPT) $(EXPRESS)) $(if $(CI)$(shell command -v go),$(TOOLS)/grpcurl $(TOOLS)/versitygw $(TOOLS)/litestream $(TOOLS)/compose-spec) ## Install what pages and tests need: mkdocs; with Node buf and the built TypeScript client; with Go grpcurl, an S3 server, age, Litestream, the code generators, Compose's loader

$(NODE_MODULES): clients/typescript/package.json clients/typescript/package-lock.json
	@command -v npm >/dev/null || { echo "npm is needed here: install Node 20 or newer" >&2; exit 1; }
	@cd clients/typescript && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

# It has a copy of the client, as programs elsewhere have.
$(EXPRESS): examples/browser/express/package.json examples/browser/express/package-lock.json $(TYPESCRIPT)
	@cd examples/browser/express && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

$(TYPESCRIPT): clients/typescript/build.mjs $(wildcard clients/typescript/*.json) \
		$(shell find clients/typescript/src -name '*.ts') | $(NODE_MODULES)
	@node clients/typescript/build.mjs

$(TOOLS)/grpcurl: Makefile
	@command -v go >/dev/null || { echo "go is needed here: install Go (clients/go/go.mod names the version)" >&2; exit 1; }
	@GOBIN="$(CURDIR)/$(TOOLS)" go install github.com/fullstorydev/grpcurl/cmd/grpcurl@$(GRPCURL_VERSION)
	@GOBIN="$(CURDIR)/$(TOOLS)" go install google.golang.org/protobuf/cmd/protoc-gen-go@$(PROTOC_GEN_GO_VERSION)
	@GOBIN="$(CURDIR)/$(TOOLS)" go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@$(PROTOC_GEN_GO_GRPC_VERSION)
	@touch $@

# A server of S3's protocol and the age tool, for tests.
$(TOOLS)/versitygw: Makefile
	@command -v go >/dev/null || { echo "go is needed here: install Go (clients/go/go.mod names the version)" >&2; exit 1; }
	@GOBIN="$(CURDIR)/$(TOOLS)" go install github.com/versity/versitygw/cmd/versitygw@$(VERSITYGW_VERSION)
	@GOBIN="$(CURDIR)/$(TOOLS)" go install filippo.io/age/cmd/age@$(AGE_VERSION)
	@touch $@

# Its package is called cmd.
$(TOOLS)/compose-spec: Makefile
	@command -v go >/dev/null || { echo "go is needed here: install Go (clients/go/go.mod names the version)" >&2; exit 1; }
	@GOBIN="$(CURDIR)/$(TOOLS)/compose" go install github.com/compose-spec/compose-go/v2/cmd@$(COMPOSE_SPEC_VERSION)
	@mv $(TOOLS)/compose/cmd $@ && rmdir $(TOOLS)/compose && touch $@

# Of so many packages that the first build takes minutes. The Dockerfile has the same line, so that it takes them once.
$(TOOLS)/litestream: Makefile
	@command -v go >/dev/null || { echo "go is needed here: install Go (clients/go/go.mod names the version)" >&2; exit 1; }
	@GOBIN="$(CURDIR)/$(TOOLS)" CGO_ENABLED=0 go install -trimpath -ldflags="-s -w" github.com/benbjohnson/litestream/cmd/litestream@$(LITESTREAM_VERSION)
	@touch $@

# Whoever runs the server needs none of it, so it is not in .venv.
$(SITE)/.installed: requirements.docs.lock $(VENV)/.installed
	@[ -x $(SITE)/bin/python ] || $(UV) venv --quiet --python $(BIN)/python $(SITE)
	@VIRTUAL_ENV="$(CURDIR)/$(SITE)" $(UV) pip sync --quiet --require-hashes requirements.docs.lock
	@touch $@

site: $(SITE)/.installed ## Build the documentation as a static site, in ./site
	@$(BIN)/python -m scripts.site site

generate: $(VENV)/.installed $(NODE_MODULES) $(TOOLS)/grpcurl ## Rebuild the generated clients, pages and .env.example
	@bash scripts/generate

dist: $(VENV)/.installed $(NODE_MODULES) ## Build what programs install into ./dist: wheel and sdist, npm tarball, Go module
	@bash scripts/dist

baseline: $(NODE_MODULES) ## Move the baseline that the contract is compared with, on purpose only (decision 18)
	@$(BUF) build proto --exclude-source-info -o proto/baseline.binpb

lock: $(VENV)/.installed ## Resolve the dependencies anew into the four requirements locks
	@$(LOCK) --upgrade --group dev --group examples pyproject.toml -o requirements.lock
	@$(LOCK) --constraint requirements.lock pyproject.toml -o requirements.runtime.lock
	@$(LOCK) --upgrade --group build -o requirements.build.lock
	@$(LOCK) --upgrade --constraint requirements.lock --group docs -o requirements.docs.lock

# Of all their architectures. buildx asks the registry, and needs no running engine.
base: ## Pin the images that ours is built from to the newest digests of their tags
	@for image in python:3.11-slim golang:1.26-trixie; do \
		digest=$$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' $$image) && \
		[[ "$$digest" =~ ^sha256:[0-9a-f]{64}$$ ]] && \
		sed -i "s|^FROM $$image@[^ ]*|FROM $$image@$$digest|" Dockerfile || exit 1; \
	done

format: $(VENV)/.installed tools ## Format Python, protobuf and Go
	@$(BIN)/ruff check --fix --quiet . && $(BIN)/ruff format --quiet .
	@if [ -x $(BUF) ]; then $(BUF) format -w; fi
	@if command -v gofmt >/dev/null; then gofmt -w clients/go examples tests/clients; fi

clean: ## Remove what was installed and built; ./data stays
	@rm -rf $(VENV) .tools clients/typescript/node_modules clients/typescript/dist examples/browser/express/node_modules dist site .mypy_cache .ruff_cache .pytest_cache
