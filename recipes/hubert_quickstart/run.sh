#!/usr/bin/env bash
# Pre-trains a HuBERT on the sample in two iterations: on clusters of MFCC, then on clusters of its own layer.
# README.md says what to expect.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=recipes/launch.sh
source "$here/../launch.sh"

usage() {
    cat <<'END'
usage: run.sh [OUT] [--clusters "50 200"] [--layer N] [--nproc N] [ARGUMENTS OF `eqssl pretrain` ...]

1. Clusters the MFCC of the sample into 50 codes and labels it: OUT/labels-1 (OUT: runs/hubert_quickstart).
2. Pre-trains recipes/hubert_quickstart/hubert.yaml on these labels: OUT/iteration-1.
3. Clusters the output of a layer of that (default: 2) into 200 codes: OUT/labels-2.
4. Pre-trains anew on those: OUT/iteration-2.
5. Prints the table of both, and writes OUT/summary.json and OUT/summary.png.
Started again, it goes on where it was. `--nproc N` labels and trains in N processes of this machine; a SLURM job does so in
its own (recipes/slurm/job.sbatch).

examples:
  run.sh
  run.sh runs/small --clusters "30 60" --config regime.num_steps=100
  run.sh runs/plain --config equilibrium=null dataset.episodes_per_source=2       conventional, at the same cost
END
}

out="$root/runs/hubert_quickstart"
clusters="50 200"
layer=2
nproc="${NPROC_PER_NODE:-}"
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
        --clusters | --layer | --nproc)
            name="${1#--}"
            printf -v "$name" '%s' "${2:-}"
            shift
            [ $# -eq 0 ] || shift
            ;;
        --clusters=* | --layer=* | --nproc=*)
            name="${1%%=*}"
            printf -v "${name#--}" '%s' "${1#*=}"
            shift
            ;;
        *)
            extra+=("$1")
            shift
            ;;
    esac
done

read -r first second rest <<<"$clusters"

if [[ ! "$first $second $rest" =~ ^[0-9]+\ [0-9]+\ $ ]]; then
    printf 'run.sh: `--clusters` must be two numbers, as in `--clusters "50 200"`, but is `%s` instead.\n' "$clusters" >&2
    exit 2
fi

NPROC_PER_NODE="$nproc"
plan pretrain # Refuses what cannot be started before anything is made.

if ! "$PYTHON" -c 'import eqssl_speech' 2>/dev/null; then
    printf 'run.sh: eqssl_speech is not installed for %s; run `tools/setup.sh labels` first.\n' "$PYTHON" >&2
    exit 1
fi

# Logs that go into a file get no colours and no line breaks at the terminal's width.
plain=()
[ -t 2 ] || plain=(--no-rich)

label() { # NUMBER ARGUMENTS OF `eqssl labels`...
    launch labels "$here/../quickstart/corpus" "$out/labels-$1" "${@:2}"
}

pretrain() { # NUMBER
    launch pretrain "$out/iteration-$1" --config-file "$here/hubert.yaml" ${plain[@]+"${plain[@]}"} \
        --config dataset.labels="$out/labels-$1" ${extra[@]+"${extra[@]}"}
}

label 1 --clusters "$first"
pretrain 1
label 2 --clusters "$second" --checkpoint "$out/iteration-1" --layer "$layer"
pretrain 2

"$PYTHON" -m eqssl_speech.report "$out" --run iteration-1 iteration-2

printf 'Finished after %d min %d s.\n' $((SECONDS / 60)) $((SECONDS % 60))
