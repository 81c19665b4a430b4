# `make demo`, `make connected` and `make test` each set up all they need in .venv, in a fresh clone and alone.
# `make test-all` adds the long end-to-end cases (marked `slow`) and more generated inputs; `make test-order` runs the files in reverse order.

PYTHON ?= python3
BIN := .venv/bin

# What an installation is made of; the package's Python files are used where they are.
INSTALLED := pyproject.toml constraints.txt setup.py $(wildcard src/vaelens/kernels/native/*)

PYTEST := $(BIN)/pytest -n 2 --dist loadfile

.PHONY: demo connected test test-all test-order test-alone lint sanitize clean

demo: .venv/product.stamp
	@$(BIN)/vaelens compare "a smiling face with blue eyes and red hair on a yellow background" --seed 0 \
		--photo examples/astronaut.png --boxes examples/boxes.csv -o demo
	@echo
	@$(BIN)/vaelens evaluate synthetic --take 24 --preset offline -o demo/evaluation
	@echo
	@echo "Which VAE made an image, by its own metadata:"
	@$(BIN)/vaelens identify demo/001-seed-0-2-tiny-ft-ema.png
	@echo
	@echo "One latent, three decoders, a generated image and a photo:"
	@echo "  the page (slider, flicker, heat map):  demo/index.html   (open it in a browser)"
	@echo "  can you tell the decoders apart?       the blind test at the top of that page"
	@echo "  the labelled sheet:                    demo/sheet.png"
	@echo "  what was run, with fingerprints:       demo/run.json"
	@echo "Measured on 24 synthetic images:           demo/evaluation/report.html"
	@echo "The same, live:                          $(BIN)/vaelens serve"

# For whoever has the network: `make connected ARGS=--plan` says first what it would download. See connected/.
connected: .venv/product.stamp
	@$(BIN)/python -m connected $(ARGS)

test: lint
	$(PYTEST) -m "not slow"

test-all: lint
	VAELENS_EXAMPLES=$${VAELENS_EXAMPLES:-large} $(PYTEST)

# In one process, the last file first: finds a test that needs what another one left behind.
test-order: .venv/test.stamp
	$(BIN)/pytest $$(find tests -name 'test_*.py' | sort -r)

# Each file in a process of its own.
test-alone: .venv/test.stamp
	for file in $$(find tests -name 'test_*.py' | sort); do $(BIN)/pytest $$file -m "not slow" || [ $$? = 5 ] || exit 1; done

lint: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# The native kernels under AddressSanitizer and UndefinedBehaviorSanitizer, over many shapes: minutes.
sanitize: .venv/test.stamp
	$(BIN)/python tests/native/sanitize.py

.venv/python.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vaelens needs Python 3.11 or later; this is " + sys.version.split()[0] + ". Try: make $(MAKECMDGOALS) PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/product.stamp: .venv/python.stamp $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

.venv/test.stamp: .venv/python.stamp $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	@touch $@ .venv/product.stamp

clean:
	rm -rf .venv demo
