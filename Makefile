# Everything a newcomer or CI runs. The work is in scripts/; `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := bash
# A GGUF file for `make demo` and `make bench`; empty: the demo model, downloaded once.
MODEL ?=
PORT ?= 8080
# A wasm-bindgen of the pinned version may have been built for this project only (scripts/setup.sh).
TOOLS := $(or $(LAMPLIGHT_TOOLS),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/lamplight)
export PATH := $(TOOLS)/bin:$(CURDIR)/node_modules/.bin:$(PATH)

.PHONY: help setup demo build test test-all lint size bench bench-cpu bench-gpu bench-load fidelity clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: build ## set everything up, fetch the model, serve the chat page (MODEL=path.gguf, PORT=8080)
	@model="$(MODEL)"; [ -n "$$model" ] || model=$$(scripts/model.sh | tail -n 1) || exit 1; \
	exec node scripts/serve.mjs www/dist --port $(PORT) --model "$$model"

setup: ## only the set-up of `make build`
	@scripts/setup.sh build

build: ## wasm, npm package and page into pkg/dist and www/dist
	@scripts/setup.sh build
	@scripts/build.sh

test: ## set up browsers and run every ring of tests (`scripts/test.sh RING...` runs some)
	@scripts/setup.sh test
	@scripts/test.sh

test-all: ## the same, with the long tests (the large oracle sets, more fault cases)
	@scripts/setup.sh test
	@LAMPLIGHT_LONG=1 scripts/test.sh

lint: ## rustfmt, clippy (host and wasm32), TypeScript
	@scripts/setup.sh lint
	@scripts/lint.sh

size: build ## fail when the wasm or the page-side JavaScript is over its budget
	@node scripts/size.mjs

bench: build ## speed of both backends in Chromium beside wllama and Transformers.js
	@scripts/setup.sh test
	@scripts/bench.sh $(MODEL)

bench-load: build ## cold and cached loads, checks and memory in Chromium beside wllama and a plain fetch
	@scripts/setup.sh test
	@LAMPLIGHT_BENCH_LOAD=1 scripts/bench.sh $(MODEL)

bench-cpu: build ## the CPU alone in Chromium: weight formats, prompt lengths, depths (TYPES="q8_0 q4_0")
	@scripts/setup.sh test
	@scripts/bench_cpu.sh $(MODEL)

bench-gpu: build ## the GPU alone in Chromium (a software adapter here): prompt lengths and depths, beside both peers
	@scripts/setup.sh test
	@LAMPLIGHT_BENCH="--backends webgpu --rounds 1 --prompt 128,512 --depth 0,4096 $$LAMPLIGHT_BENCH" scripts/bench.sh $(MODEL)

fidelity: ## KL and top-1 of every weight format and backend against float32 (MODEL=path.gguf, ARGS='--types q4_0')
	@scripts/fidelity.sh $(MODEL)

clean: ## remove what builds made (not the downloaded model)
	rm -rf target pkg/dist www/dist node_modules
