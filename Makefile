# Every target sets up what it needs. On Debian, as root, missing Debian packages are installed too; otherwise they are named.
.PHONY: run test check bench clean

run: ; @.ci/setup run && exec .venv/bin/streammachine demo
test: ; @.ci/setup test && .venv/bin/pytest
check: ; @.ci/setup test && .venv/bin/ruff check . && .venv/bin/mypy && .venv/bin/pytest tests/rules
bench: ; @.ci/setup bench && .venv/bin/python -m tests.bench
clean: ; rm -rf .venv .bench build dist *.egg-info
