#!/usr/bin/env bash
# Trains on the sample and reports, per source, what came of it. README.md says what to expect.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"

usage() {
    cat <<'END'
usage: run.sh [OUT] [--regime equilibrium|conventional] [ARGUMENTS OF `eqssl pretrain` ...]

Trains recipes/quickstart/equilibrium.yaml into OUT/REGIME (OUT: runs/quickstart in the repository; REGIME:
equilibrium; `conventional` is the same without the section `equilibrium`), then writes OUT/summary.json and OUT/summary.png and prints the table of all runs in OUT.
Started again, it goes on from the last checkpoint.

examples:
  run.sh
  run.sh --regime conventional                                the same data and cost without equilibrium
  run.sh runs/try --config regime.num_steps=100
END
}

out="$root/runs/quickstart"
regime=equilibrium
extra=()

case "${1:-}" in
    '' | -*) ;;
    *)
        out="$1"
        shift
        ;;
esac

while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help)
            usage
            exit 0
            ;;
        --regime)
            regime="${2:-}"
            shift
            [ $# -eq 0 ] || shift
            ;;
        --regime=*)
            regime="${1#*=}"
            shift
            ;;
        *)
            extra+=("$1")
            shift
            ;;
    esac
done

case "$regime" in
    equilibrium) ;;
    # Two batches of a source per update, as K = 1 has them: the same audio and the same batches in size, all at theta.
    conventional) extra=(--config equilibrium=null dataset.episodes_per_source=2 ${extra[@]+"${extra[@]}"}) ;;
    *)
        printf 'run.sh: there is no regime `%s`; it must be `equilibrium` or `conventional`.\n' "$regime" >&2
        exit 2
        ;;
esac

# The one named, else the active environment's, else the repository's.
if [ -z "${PYTHON:-}" ]; then
    if [ -n "${VIRTUAL_ENV:-}" ]; then
        PYTHON="$VIRTUAL_ENV/bin/python"
    elif [ -x "$root/.venv/bin/python" ]; then
        PYTHON="$root/.venv/bin/python"
    else
        PYTHON=python3
    fi
fi

if ! "$PYTHON" -c 'import eqssl_speech' 2>/dev/null; then
    printf 'run.sh: eqssl_speech is not installed for %s; run tools/setup.sh first.\n' "$PYTHON" >&2
    exit 1
fi

# Logs that go into a file get no colours and no line breaks at the terminal's width.
[ -t 2 ] || extra=(--no-rich ${extra[@]+"${extra[@]}"})

"$PYTHON" -m eqssl_speech pretrain "$out/$regime" --config-file "$here/equilibrium.yaml" \
    ${extra[@]+"${extra[@]}"}

runs=()
for name in equilibrium conventional; do
    # A run that has not come to its first validation has nothing to report.
    if [ -d "$out/$name/metrics/valid" ]; then
        runs+=("$name")
    fi
done

case " ${extra[*]-} " in
    *" --dump-config "*) exit 0 ;;
esac

"$PYTHON" -m eqssl_speech.report "$out" ${runs[@]+--run "${runs[@]}"}

printf 'Finished after %d min %d s.\n' $((SECONDS / 60)) $((SECONDS % 60))
