# The commands of this repository. `make` lists them.

SHELL := /bin/bash
# One setting for every build, so that all of them share the build cache; the
# binaries have to be static anyway.
export CGO_ENABLED ?= 0

TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/pathproof/tools/$(shell sha256sum go.tools.mod | cut -c1-12)
CONTROLLER_GEN := $(TOOLS)/controller-gen
GOLANGCI_LINT := $(TOOLS)/golangci-lint
CRD_REF_DOCS := $(TOOLS)/crd-ref-docs
KUSTOMIZE := $(TOOLS)/kustomize

OPERATOR_IMAGE ?= ghcr.io/pathproof/operator:latest
PROBE_IMAGE ?= ghcr.io/pathproof/probe:latest

PURE := ./flow/... ./plan/... ./probepod/... ./canary/... ./evaluator/... ./verdict/... ./probe/... ./manifests/... ./check/... ./explain/... ./matrix/... ./diff/... ./cluster/... ./diagnosis/... ./doctor/...
UNIT = $$(go list ./... | grep -v -e /test/integration -e /test/e2e)
# A module of its own: Prometheus' engine stays out of the operator's module graph.
ALERTS := test/alerts
FUZZ := ./evaluator:FuzzDecide ./probe/wire:FuzzDecodeReport ./probe/sctp:FuzzParse ./probe/sctp:FuzzReceive ./manifests:FuzzRead

.PHONY: help
help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

##@ Use

.PHONY: demo
demo: ## Show the production scenario: met, enforcement broken on a node, drift, healed
	go run ./test/demo

.PHONY: lab-up lab-down
lab-up: ## Start the lab: a real Kubernetes on this machine
	go run ./test/lab up
lab-down: ## Remove everything that the lab made
	go run ./test/lab down

.PHONY: install uninstall
install: ## Install CRDs, operator and canary into the cluster of KUBECONFIG
	kubectl apply --server-side -k config/default
	kubectl wait --for=condition=Established crd/enforcementcanaries.pathproof.dev
	kubectl apply --server-side -k config/canary
uninstall: ## Remove them, and all expectations with them
	kubectl delete --ignore-not-found -k config/canary
	kubectl delete --ignore-not-found -k config/default

##@ Build

.PHONY: build image
build: ## Build the operator, the probe and the command line into bin/
	go build -ldflags='-s -w' -o bin/ ./cmd/...
image: ## Build both images with Docker
	docker build --target operator -t $(OPERATOR_IMAGE) .
	docker build --target probe -t $(PROBE_IMAGE) .

.PHONY: generate docs
generate: $(CONTROLLER_GEN) ## Generate deep copies, the CRD and the roles
	$(CONTROLLER_GEN) object paths=./api/... crd output:crd:dir=config/crd/bases
	$(CONTROLLER_GEN) rbac:roleName=pathproof-manager paths=./controllers/... output:rbac:dir=config/rbac
	go list -deps ./cmd/probe | xargs go list -f '{{if not .Standard}}{{.ImportPath}}{{end}}' | sort > cmd/probe/deps.txt
docs: $(CRD_REF_DOCS) ## Generate docs/api.md
	$(CRD_REF_DOCS) --source-path=api --config=hack/crd-ref-docs.yaml --renderer=markdown --output-path=docs/api.md

##@ Check

.PHONY: test test-unit test-race integration e2e soak record bench bench-lab scale fuzz
test: assets ## Run every test: unit, CRD rules, alerts, integration, end to end on the lab
	@KUBEBUILDER_ASSETS="$$(go run ./test/lab assets)" go run ./hack/testreport \
	  unit: $(UNIT) -- alerts: -C $(ALERTS) ./... -- integration: -timeout=10m ./test/integration -- e2e: -timeout=60m -v ./test/e2e
test-unit: ## Run the tests that need no cluster
	@go run ./hack/testreport unit: $(UNIT) -- alerts: -C $(ALERTS) ./...
test-race: ## Run the tests of the pure packages with the race detector
	CGO_ENABLED=1 go test -race $(PURE)
integration: assets ## Run the tests against a real API server
	@KUBEBUILDER_ASSETS="$$(go run ./test/lab assets)" go run ./hack/testreport integration: -timeout=10m ./test/integration
e2e: ## Run the tests on the lab, or on the cluster of KUBECONFIG
	@go run ./hack/testreport e2e: -timeout=60m -v ./test/e2e
soak: ## Probe what the end-to-end tests expect 200 times (RUNS) on a busy lab, and count false verdicts
	go run ./test/soak -runs=$(or $(RUNS),200)
record: ## Record anew, on the lab, the metrics that the alerts are tested with
	go run ./test/record
bench: ## Run the benchmarks; those of whole runs need root
	go test -run='^$$' -bench=. -benchmem ./evaluator ./plan ./probe/... ./cmd/probe ./controllers ./manifests ./cmd/pathproof
bench-lab: ## Measure whole runs on the lab, or on the cluster of KUBECONFIG
	go run ./test/bench
scale: assets ## Measure the operator on a cluster of 1,000 nodes (NODES) that are fakes
	KUBEBUILDER_ASSETS="$$(go run ./test/lab assets)" go run ./test/scale -nodes=$(or $(NODES),1000)
fuzz: ## Fuzz each target for ten seconds
	@for f in $(FUZZ); do go test -run='^$$' -fuzz="^$${f#*:}$$" -fuzztime=10s "$${f%:*}" || exit 1; done

# Built once, into the user's cache.
.PHONY: assets
assets:
	@go run ./test/lab assets > /dev/null

.PHONY: fmt lint verify
fmt: $(GOLANGCI_LINT) ## Format all Go files
	$(GOLANGCI_LINT) fmt
lint: $(GOLANGCI_LINT) ## Run the linters
	$(GOLANGCI_LINT) run
	cd $(ALERTS) && $(GOLANGCI_LINT) run
verify: generate docs $(KUSTOMIZE) ## Check that generated files, modules and manifests are as committed
	go mod tidy -diff
	go vet ./...
	go -C $(ALERTS) mod tidy -diff
	go -C $(ALERTS) vet ./...
	$(KUSTOMIZE) build config/default > /dev/null
	$(KUSTOMIZE) build config/canary > /dev/null
	$(KUSTOMIZE) build config/clusternetworkpolicy > /dev/null
	$(KUSTOMIZE) build config/prometheus > /dev/null
	$(KUSTOMIZE) build config/samples/production > /dev/null
	@git diff --exit-code -- api config cmd/probe/deps.txt docs/api.md || { echo "generated files differ: run 'make generate docs' and commit"; exit 1; }
	@test -z "$$(git status --porcelain -- api config docs/api.md)" || { echo "generated files are not committed"; exit 1; }

# The tools are modules of their own graph (go.tools.mod), built into the user's
# cache, so that a clean clone does not build them again.
$(CONTROLLER_GEN): PKG = sigs.k8s.io/controller-tools/cmd/controller-gen
$(GOLANGCI_LINT): PKG = github.com/golangci/golangci-lint/v2/cmd/golangci-lint
$(CRD_REF_DOCS): PKG = github.com/elastic/crd-ref-docs
$(KUSTOMIZE): PKG = sigs.k8s.io/kustomize/kustomize/v5
$(CONTROLLER_GEN) $(GOLANGCI_LINT) $(CRD_REF_DOCS) $(KUSTOMIZE):
	@echo "Building $(PKG)"
	@mkdir -p $(TOOLS) && go build -modfile=go.tools.mod -o $@.tmp $(PKG) && mv $@.tmp $@
