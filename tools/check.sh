#!/usr/bin/env bash
# Sets up `.venv` and checks lint, format, types and docstrings. `tools/check.sh --fix` mends lint and format first.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

tools/setup.sh check

bin=.venv/bin
status=0

if [ "${1:-}" = --fix ]; then
    "$bin/ruff" check --fix . || true
    "$bin/ruff" format .
fi

run() {
    printf '== %s\n' "$*"
    "$bin/python" -m "$@" || status=1
}

run ruff check .
run ruff format --check .
run mypy eqssl_speech  # strict, says pyproject.toml
# Every public module, class, method and function says what it does.
run ruff check --select D100,D101,D102,D103,D104,D419 eqssl_speech

if [ "$status" -eq 0 ]; then
    echo "All checks passed."
fi
exit "$status"
