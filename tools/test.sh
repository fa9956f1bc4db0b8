#!/usr/bin/env bash
# Sets up `.venv` and runs the tests, a process on each core.
#
#   tools/test.sh                     everything but the tests marked `slow`
#   tools/test.sh --all               the slow ones too
#   tools/test.sh tests/unit -k NAME  what pytest takes
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

tools/setup.sh test

if [ "${1:-}" = --all ]; then
    shift
    set -- -m "" "$@"
fi

# The processes are as many as the cores already.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

# Files go out in their order, in which the longest, of few tests, come first; by default those of most tests would, and
# minutes of one core would be left at the end.
exec .venv/bin/python -m pytest --numprocesses logical --dist loadfile --no-loadscope-reorder "$@"
