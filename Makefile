.DEFAULT_GOAL := help
.PHONY: help test race bench lint tidy format api fuzz torture up down demo

help: ## this text
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t12

test: ## install, start, and pass everything, as CI does
	./scripts/test

race: ## the tests of every module with -race, on servers that are up
	@for m in $$(./scripts/modules); do (cd $$m && go test -race -p 1 ./...) || exit 1; done

bench: ## benchmarks of the hot paths
	go test -run '^$$' -bench . -benchmem ./...

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
