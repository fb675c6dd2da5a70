# Thaw: build and check. `make help` lists the targets.
GO      ?= go
GOBIN   := $(shell $(GO) env GOPATH)/bin
YES     ?=
DB      ?= sqlite
RELEASE ?= v0.1

# What `make e2e` runs on a cluster, of the packages that there are.
# The longest first: they run side by side.
E2E     ?= ./internal/clustertest/... ./activities/volume/... ./activities/kube/... ./activities/data/... ./worker/actionset/... ./activities/cluster/... ./activities/manifest/... ./activities/wait/...
E2E_THERE = $(foreach p,$(E2E),$(if $(wildcard $(p:/...=)),$(p)))

.PHONY: help build demo test matrix matrix-cluster bench bench-cluster bench-data record cluster cluster-down e2e lint fuzz golden clean FORCE

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

build: bin/thaw bin/thaw-worker bin/thaw-server ## build the three programs into bin/

bin/thaw: FORCE
	@$(GO) build -o $@ ./starter

bin/thaw-worker: FORCE
	@$(GO) build -o $@ ./worker

# A module of its own: its dependencies and the worker's do not go together.
bin/thaw-server: FORCE
	@test -x $@ || echo "Building the embedded Temporal server (the first time takes about ten minutes)..."
	@cd deploy/server && $(GO) build -o ../../$@ .

# The local Kubernetes cluster: a module of its own too.
bin/thaw-cluster: FORCE
	@cd deploy/cluster && CGO_ENABLED=0 $(GO) build -trimpath -o ../../$@ .

# The temporal CLI, for the tests that type its commands.
bin/temporal: deploy/tools/temporal/go.mod
	@echo "Building the temporal command line..."
	@$(GO) build -modfile=deploy/tools/temporal/go.mod -o $@ github.com/temporalio/cli/cmd/temporal && touch $@

# Object stores, for the tests of locations.
bin/versitygw: deploy/tools/versitygw/go.mod
	@echo "Building the S3 store of the tests..."
	@CGO_ENABLED=0 $(GO) build -modfile=deploy/tools/versitygw/go.mod -o $@ github.com/versity/versitygw/cmd/versitygw && touch $@

bin/fake-gcs-server: deploy/tools/fake-gcs-server/go.mod
	@echo "Building the Google Cloud Storage of the tests..."
	@CGO_ENABLED=0 $(GO) build -modfile=deploy/tools/fake-gcs-server/go.mod -o $@ github.com/fsouza/fake-gcs-server && touch $@

# That of Azure needs Node.js; where npm is missing its tests are skipped.
NPM     ?= $(shell command -v npm)

bin/azurite: deploy/tools/azurite/package-lock.json
	@echo "Building the Azure Blob Storage of the tests..."
	@rm -rf $@ && mkdir -p $@ && cp deploy/tools/azurite/package*.json $@ && cd $@ && $(NPM) ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

# What moves data, and what it is measured beside.
bin/kando: FORCE
	@$(GO) build -o $@ ./deploy/kando

bin/kopia: deploy/tools/kopia/go.mod
	@echo "Building Kopia's command line..."
	@$(GO) build -modfile=deploy/tools/kopia/go.mod -o $@ github.com/kopia/kopia && touch $@

demo: build ## back up, crash, thaw and restore a live database (DB=sqlite|postgres|mariadb, YES=1)
	@$(GO) build -o bin/thaw-demo ./deploy/demo
	@bin/thaw-demo --db $(DB) $(if $(YES),--yes)

test: build bin/temporal bin/versitygw bin/fake-gcs-server $(if $(NPM),bin/azurite) ## run all tests but the failure matrix
	THAW_REQUIRE_STORES=1 $(GO) test ./...
	cd deploy/server && $(GO) test ./...

matrix: bin/thaw-server ## break every freeze in every way, on real servers, and print the table
	@THAW_MATRIX=1 THAW_MATRIX_REPORT=$(CURDIR)/bin/matrix.txt $(GO) test ./internal/matrix -run '^TestMatrix$$' -count=1 -timeout 60m; \
	  rc=$$?; [ $$rc != 0 ] || cat bin/matrix.txt; exit $$rc

cluster: bin/thaw-cluster ## bring up a local Kubernetes cluster (as root; the first time takes about 15 minutes)
	@bin/thaw-cluster up

cluster-down: bin/thaw-cluster ## take it away
	@bin/thaw-cluster down

# The cluster's own tests bring one up and down, and another loses it, so they
# come first; not where one is up already. A cluster of the caller's, by
# KUBECONFIG, is used as it is.
e2e: bin/thaw bin/thaw-server bin/thaw-cluster bin/versitygw ## run the end-to-end tests on a cluster (as root; KUBECONFIG: on that one)
ifeq ($(KUBECONFIG),)
	@rm -f bin/e2e.own; bin/thaw-cluster status >/dev/null 2>&1 || touch bin/e2e.own
	@bin/thaw-cluster build
	cd deploy/cluster && THAW_REQUIRE_CLUSTER=1 $(GO) test -p 1 -count=1 -timeout 30m ./...
	@bin/thaw-cluster up
	! [ -e bin/e2e.own ] || KUBECONFIG=$$(bin/thaw-cluster kubeconfig) THAW_REQUIRE_CLUSTER=1 THAW_REQUIRE_STORES=1 THAW_LOSE_CLUSTER=1 $(GO) test -count=1 -timeout 15m ./internal/clustertest -run '^TestTheClusterIsLost$$'
endif
	$(if $(E2E_THERE),KUBECONFIG=$${KUBECONFIG:-$$(bin/thaw-cluster kubeconfig)} THAW_REQUIRE_CLUSTER=1 THAW_REQUIRE_STORES=1 $(GO) test -p 5 -count=1 -timeout 60m $(E2E_THERE))

matrix-cluster: bin/thaw-server bin/thaw-cluster ## the failure matrix on the cluster that is up, with what may go wrong there besides
	@KUBECONFIG=$${KUBECONFIG:-$$(bin/thaw-cluster kubeconfig)} THAW_REQUIRE_CLUSTER=1 THAW_MATRIX=cluster THAW_MATRIX_REPORT=$(CURDIR)/bin/matrix-cluster.txt $(GO) test ./internal/matrix -run '^TestMatrix$$' -count=1 -timeout 80m; \
	  rc=$$?; [ $$rc != 0 ] || cat bin/matrix-cluster.txt; exit $$rc

record: build bin/versitygw ## record histories for the replay tests of RELEASE (of applications, where a cluster is up)
	! bin/thaw-cluster status >/dev/null 2>&1 || KUBECONFIG=$$(bin/thaw-cluster kubeconfig) THAW_RECORD=$(CURDIR)/workflows/testdata/history/$(RELEASE) $(GO) test ./internal/clustertest -run '^(TestApplication|TestARestoreThatFailsGoesBack|TestMovingDataSurvivesKills)$$' -count=1
	THAW_RECORD=$(CURDIR)/workflows/testdata/history/$(RELEASE) $(GO) test ./internal/e2e -run '^(TestARestorePointInALocationOutlivesAllElse|TestRetention)' -count=1
	THAW_MATRIX=1 THAW_MATRIX_LANE=sqlite THAW_RECORD=$(CURDIR)/workflows/testdata/history/$(RELEASE) $(GO) test ./internal/matrix -run '^TestMatrix$$' -count=1 -timeout 60m

bench: bin/thaw-server ## measure the engine's share of the freeze window
	$(GO) test ./internal/matrix -run '^$$' -bench . -benchtime 1x -count=1 -timeout 30m

bench-cluster: bin/thaw-server bin/thaw-cluster ## measure the freeze window on the cluster that is up, against a plain client-go program
	KUBECONFIG=$${KUBECONFIG:-$$(bin/thaw-cluster kubeconfig)} THAW_REQUIRE_CLUSTER=1 $(GO) test ./internal/clustertest -run '^$$' -bench BenchmarkWindow -benchtime 1x -count=1 -timeout 30m

# Beside restic (Debian's) and the rest; the files are PostgreSQL's (Debian's).
# THAW_BENCH_DIR keeps them for the next run, THAW_BENCH_ROUNDS repeats,
# THAW_BENCH_TOOLS=thaw,restic,kopia,plain chooses.
SIZE    ?= 10

bench-data: bin/kando bin/kopia bin/versitygw ## measure backups of SIZE GiB of PostgreSQL files beside restic, Kopia and a pipe (about a quarter of an hour)
	THAW_BENCH_SIZE=$(SIZE) $(GO) test ./internal/databench -run '^$$' -bench . -benchtime 1x -count=1 -timeout 3h -v

lint: ## gofmt, go vet, golangci-lint, workflowcheck
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "run: gofmt -w ."; exit 1; }
	$(GO) vet ./...
	cd deploy/cluster && $(GO) vet ./...
	$(GO) tool -modfile=deploy/tools/go.mod golangci-lint run ./...
	$(GO) tool -modfile=deploy/tools/go.mod workflowcheck -config deploy/tools/workflowcheck.yaml ./workflows/...

fuzz: ## fuzz every parser for FUZZTIME each (default 1m)
	@for t in $$(grep -rhoE '^func (Fuzz[A-Za-z]+)' --include=*_test.go . | awk '{print $$2}'); do \
	  p=$$(dirname $$(grep -rlE "^func $$t\(" --include=*_test.go .)); echo "$$p $$t"; \
	  $(GO) test $$p -run '^$$' -fuzz "^$$t\$$" -fuzztime $${FUZZTIME:-1m} -fuzzminimizetime 2s || exit 1; done

golden: ## write the golden files again
	$(GO) test ./worker/wiring -update
	$(GO) test ./blueprints ./blueprints/catalogue/rbac ./blueprints/schema -update

clean: ## remove what was built
	rm -rf bin .demo
