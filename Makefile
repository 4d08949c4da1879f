# For GNU make and FreeBSD's make alike, so: no conditionals, and != for what a command prints.

GO        ?= go
GOOS      != $(GO) env GOOS
GOARCH    != $(GO) env GOARCH
POOL      ?=
IMAGE     ?=
ARCH      ?= $(GOARCH)
ACCEL     ?= kvm,tcg
LIMIT     ?= 3h
ROUNDS    ?= 200

# Without cgo: the machines it runs on need no C library of ours, and the one it is built on no C compiler. The same flags for all that is
# built, tested and checked, so that each package is compiled once.
G         = CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false" $(GO)
BUILD     = $(G) build -ldflags "-s -w"
HERE      = PATH=$$PATH:/usr/sbin:/sbin POOL="$(POOL)" ZFS_DIALECT="$$PWD/bin/zfs-dialect"
TEST      = $(HERE) $(G) test -count=1
SHIM      = jail/launch/bin/shim_$(GOOS)_$(GOARCH)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: build
build: shim ## build bin/nomad-driver-jail, the plugin and command line
	$(BUILD) -o bin/nomad-driver-jail .

.PHONY: shim
shim: ## build the small process that stays with each task; the plugin embeds it
	$(BUILD) -o $(SHIM) ./jail/shim

.PHONY: agents
agents: bin/nomad bin/consul ## build the real Nomad and Consul agents for demo and tests

bin/nomad: e2e/agents/nomad/go.mod e2e/agents/nomad/go.sum
	(cd e2e/agents/nomad && $(BUILD) -o ../../../bin/nomad github.com/hashicorp/nomad)

bin/consul: e2e/agents/consul/go.mod e2e/agents/consul/go.sum
	(cd e2e/agents/consul && $(BUILD) -o ../../../bin/consul github.com/hashicorp/consul)

.PHONY: deps
deps: ## install what demo and tests need from the system's packages
	@e2e/deps.sh

.PHONY: httpd
httpd: ## build the web server of the example images
	$(BUILD) -o bin/httpd ./examples/httpd

.PHONY: csi
csi: ## build the example CSI plugin
	$(BUILD) -o bin/csi-folders ./examples/csi-folders

.PHONY: dialect
dialect: ## build what makes zfs-fuse answer as today's ZFS
	$(BUILD) -o bin/zfs-dialect ./e2e/zfs

# All that demo and tests run, beside the tests themselves.
.PHONY: all
all: deps agents build httpd csi dialect

.PHONY: demo
demo: all ## run a real job end to end; DEMO_ONCE=1 ends by itself, POOL= names a pool to use
	$(BUILD) -o bin/demo ./e2e/demo
	@$(HERE) bin/demo

.PHONY: test
test: unit e2e ## run all tests

.PHONY: unit
unit: all ## run each package's own tests
	$(TEST) -p 2 -timeout 20m $$($(GO) list ./... | grep -v '/e2e$$')

.PHONY: faulty
faulty: shim ## build a plugin that the tests can crash at each step
	$(BUILD) -tags faults -o bin/nomad-driver-jail-faulty .

.PHONY: e2e
e2e: all faulty ## run every example job, and every mistake in one, with real agents
	$(TEST) -v -timeout 20m -parallel 6 ./e2e -faulty "$$PWD/bin/nomad-driver-jail-faulty"

.PHONY: soak
soak: all faulty ## start, stop and crash for hours; ROUNDS= says how often
	$(TEST) -v -timeout 12h -run 'TestCrash|TestSoak' ./e2e -faulty "$$PWD/bin/nomad-driver-jail-faulty" -rounds $(ROUNDS)

.PHONY: bench
bench: all ## compare starts with raw_exec and pulls with their floor, and measure 200 tasks on one host
	$(TEST) -p 1 -run '^$$' -bench . -benchtime 5x -timeout 60m -v ./driver ./e2e ./image

.PHONY: e2e-freebsd
e2e-freebsd: ## run all tests on FreeBSD in a virtual machine; IMAGE= is a BASIC-CI image's path, ARCH= its amd64 or arm64
	GO=$(GO) GOARCH=$(ARCH) e2e/freebsd/payload.sh dist/freebsd
	$(BUILD) -o bin/freebsd ./e2e/freebsd
	bin/freebsd -arch $(ARCH) -accel "$(ACCEL)" -limit $(LIMIT) -image "$(IMAGE)" -payload dist/freebsd -results dist/results

.PHONY: test-openzfs
test-openzfs: ## run the tests that want a pool on today's OpenZFS, in a virtual machine
	e2e/openzfs/guest.sh dist/openzfs
	GO=$(GO) e2e/openzfs/test.sh dist/openzfs

.PHONY: lint
lint: ## check style, vet, who imports whom
	(cd lint && $(G) build -o ../bin/staticcheck honnef.co/go/tools/cmd/staticcheck && $(G) build -o ../bin/imports ./imports)
	@found=$$(gofmt -s -l .); if [ -n "$$found" ]; then echo "gofmt -s would change:"; echo "$$found"; exit 1; fi
	$(G) vet ./...
	@# As one: what is decided in portable code may be used on one host only. A cache of its own: it holds paths.
	printf 'linux: GOOS=linux\nfreebsd: GOOS=freebsd\n' | STATICCHECK_CACHE=$$PWD/bin/staticcheck-cache CGO_ENABLED=0 GOFLAGS=-trimpath bin/staticcheck -matrix ./...
	for os in linux freebsd; do GOOS=$$os CGO_ENABLED=0 GOFLAGS=-trimpath bin/imports ./... || exit 1; done

.PHONY: cross
cross: ## build and vet for FreeBSD
	for arch in amd64 arm64; do \
		GOOS=freebsd GOARCH=$$arch $(G) build ./... && \
		GOOS=freebsd GOARCH=$$arch $(G) vet ./... || exit 1; \
	done

.PHONY: clean
clean: ## remove all that was built
	rm -rf bin dist jail/launch/bin/shim_*
