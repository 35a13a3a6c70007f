# gosersync: the two commands of a newcomer are `make demo` and `make test`.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: all build demo test tools lint clean

all: build

build:
	$(GO) build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/gosersync ./cmd/gosersync

# rsync does the work and sshd is a target under test: both from the system's packages.
tools:
	@.ci/tools

demo: tools build
	$(GO) run ./internal/demo bin/gosersync

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

test: tools build lint
	$(GO) test -race -timeout 20m ./...

clean:
	rm -rf bin/gosersync
