#!/usr/bin/env bash
# From a fresh clone to a model trained on real speech: sets up `.venv`, then recipes/quickstart/run.sh.
#
#   tools/quickstart.sh                              leaves runs/quickstart
#   tools/quickstart.sh OUT                          leaves OUT
#   tools/quickstart.sh OUT --regime conventional    the same data and cost without equilibrium
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

case "${1:-}" in
    -h | --help) exec "$root/recipes/quickstart/run.sh" --help ;;
esac

"$root/tools/setup.sh"

PYTHON="$root/.venv/bin/python" exec "$root/recipes/quickstart/run.sh" "$@"
