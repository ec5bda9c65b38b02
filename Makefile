# make alone lists the targets.

GO ?= go
PACKAGES := ./...
BIN := bin/obelisk

.DEFAULT_GOAL := help
.PHONY: help build check format vet staticcheck imports test race demo natlab bench cross clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build the binary into bin/
	$(GO) build -trimpath -o $(BIN) ./cmd/obelisk

check: format vet staticcheck imports race ## everything that must hold before a push

format: ## fail if a file is not formatted
	@files=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
	if [ -n "$$files" ]; then echo "not formatted (run gofmt -w):"; echo "$$files"; exit 1; fi

vet: ## go vet
	$(GO) vet $(PACKAGES)

staticcheck: ## staticcheck, the installed one or the one that CI uses
	@if command -v staticcheck >/dev/null; then staticcheck $(PACKAGES); \
	else $(GO) run honnef.co/go/tools/cmd/staticcheck@latest $(PACKAGES); fi

imports: ## the import table of ARCHITECTURE.md
	$(GO) test -run '^TestImports$$' .

test: ## all tests
	$(GO) test $(PACKAGES)

race: ## all tests with the race detector
	$(GO) test -race -timeout 30m $(PACKAGES)

demo: ## the local network of real processes tells its story
	./testnet/run.sh

natlab: ## every scenario of the NAT lab once (Linux, root)
	$(GO) run ./testnet/natlab/lab -runs 1

bench: ## how fast: three pillars on this machine
	$(GO) run ./testnet/bench --pillars 3 --senders 64 --messages 100000 --size 512 --concern 2 --json

cross: ## build for the other systems
	GOOS=linux GOARCH=arm64 $(GO) build -o /dev/null ./cmd/obelisk
	GOOS=darwin GOARCH=arm64 $(GO) build -o /dev/null ./cmd/obelisk
	GOOS=windows GOARCH=amd64 $(GO) build -o /dev/null ./cmd/obelisk

clean: ## remove what was built
	rm -rf bin
