# What people and .ci/run type. Plain `make` prints the targets.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

# Flags of `make test` and `make race`: everything runs under the race detector.
TESTFLAGS ?= -race -timeout 50m
# How often `make race` repeats every test.
COUNT     ?= 3
# How long `make fuzz` stays on each target.
FUZZTIME  ?= 30s
# Which benchmarks `make gobench` runs.
BENCH     ?= .
# What `make bench` hands to dmguard bench, such as --json.
BENCHFLAGS ?=
# What `make up` hands to dmguard.
UPFLAGS   ?=

GOLANGCI_VERSION := 2.15.0
# Where `go install` puts programs.
GOBIN_DIR = $(or $(shell go env GOBIN),$(firstword $(subst :, ,$(shell go env GOPATH)))/bin)
GOLANGCI  = $(GOBIN_DIR)/golangci-lint

# Runs a command with a real Kafka and real Redis servers beside it; see its package comment.
WITH_SERVERS := bin/testservers --

.PHONY: help
help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: check
check: build vet lint test turbo ## what CI runs: build, vet, lint, test, turbo

.PHONY: build
build: ## compile every command into bin/
	go build -o bin/ ./cmd/...

.PHONY: vet
vet: ## go vet
	go vet ./...

.PHONY: lint
lint: ## golangci-lint, built on first use (about a minute and a half on two cores)
	@if [[ "$$("$(GOLANGCI)" version --short 2>/dev/null)" != "$(GOLANGCI_VERSION)" ]]; then \
		echo "building golangci-lint $(GOLANGCI_VERSION)"; \
		GOFLAGS= go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v$(GOLANGCI_VERSION); \
	fi
	"$(GOLANGCI)" run ./...

.PHONY: test
test: bin/testservers ## every test, with the race detector, against a real Kafka and a real Redis started for it
	$(WITH_SERVERS) go test $(TESTFLAGS) ./...
	go vet -tags secondlook ./cmd/dmguard
	go test $(TESTFLAGS) -tags secondlook ./pipeline/secondlook

.PHONY: turbo
turbo: bin/testservers ## build and test with the tag turbo: JPEG by libjpeg-turbo, in the sandbox only
	$(WITH_SERVERS) sh -c 'go vet -tags=turbo ./... && exec "$$@"' turbo go test $(TESTFLAGS) -tags=turbo ./pipeline/media ./detectors/hashmatch
	go build -tags=turbo -o bin/turbo/ ./cmd/dmguard

.PHONY: race
race: bin/testservers ## every test COUNT times (3) in random order, with the race detector
	$(WITH_SERVERS) go test $(TESTFLAGS) -count=$(COUNT) -shuffle=on ./...

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME each (30s)
	@grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sort | while IFS=: read -r file func; do \
		echo "== $$(dirname "$$file") $${func#func }"; \
		go test -run '^$$' -fuzz "^$${func#func }\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x "$$(dirname "$$file")" </dev/null; \
	done

.PHONY: bench
bench: bin/testservers ## messages end to end, against servers started for it; BENCHFLAGS are handed on
	go build -o bin/ ./cmd/dmguard
	$(WITH_SERVERS) sh -c 'exec bin/dmguard bench --brokers "$$DMGUARD_TEST_BROKERS" --redis "$$DMGUARD_TEST_REDIS" $(BENCHFLAGS)'

.PHONY: gobench
gobench: bin/testservers ## the Go benchmarks that match BENCH (all)
	$(WITH_SERVERS) go test -run '^$$' -bench '$(BENCH)' -benchmem -timeout 60m ./...

.PHONY: up
up: ## the whole system on this machine, with its own log and queue; UPFLAGS are handed on
	go build -o bin/ ./cmd/dmguard
	bin/dmguard up $(UPFLAGS)

.PHONY: clean
clean: ## remove what was built; data and caches stay
	rm -rf bin

# Always asked of the compiler, which knows best whether it is up to date.
.PHONY: bin/testservers
bin/testservers:
	@go build -o $@ ./cmd/testservers
