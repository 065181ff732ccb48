.DEFAULT_GOAL := help
.PHONY: help test race bench bench-compare micro lint tidy format api fuzz torture up down demo

help: ## this text
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t16

test: ## install, start, and pass everything, as CI does
	./scripts/test

race: ## the tests of every module with -race, on servers that are up
	@for m in $$(./scripts/modules); do (cd $$m && go test -race -p 1 ./...) || exit 1; done

bench: ## Gombu against its rivals, [SUITE=regexp], into docs/benchmarks.md; goes on where it was stopped
	go run ./bench -suite '$(SUITE)'

micro: ## benchmarks of the hot paths
	go test -run '^$$' -bench . -benchmem ./...

bench-compare: ## benchstat of the hot paths against a commit, [BASE=commit]
	./scripts/bench-compare $(BASE)

lint: ## the linter, pinned in tools/go.mod
	./scripts/lint

tidy: ## go mod tidy in every module
	./scripts/tidy

format: ## gofmt
	./scripts/format

api: ## write the exported API to api/*.txt
	go test -run TestExportedAPI -update .

fuzz: ## a minute of each fuzz target
	./scripts/fuzz 1m

torture: ## every fault on every broker, 40 minutes, into docs/guarantees.md
	./scripts/torture full

up: ## start the servers that the tests need
	./scripts/install && ./scripts/services start

down: ## stop them
	./scripts/services stop

demo: ## the demo in memory
	go run ./cmd/gombu demo
