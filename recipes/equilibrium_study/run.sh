#!/usr/bin/env bash
# Runs the study: pre-trainings by family, regime and seed, fine-tuned, evaluated and adapted. README.md says more.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=recipes/launch.sh
source "$here/../launch.sh"

usage() {
    cat <<'END'
usage: run.sh CORPUS OUT [ARGUMENTS OF `eqssl study` ...]

Makes CORPUS with `eqssl prepare debian-speech` if it is not there, runs the cells of study.yaml into OUT, smallest first,
prints the tables, and draws them into OUT/report. Stopped at any time, it goes on where it was when started again.

examples:
  run.sh corpora/debian_speech studies/equilibrium
  run.sh corpora/debian_speech studies/equilibrium --workers 8     on a machine with 8 GPUs
  run.sh corpora/debian_speech studies/equilibrium --list          what there is to do
END
}

case "${1:-}" in
    -h | --help | '')
        usage
        exit 0
        ;;
esac

corpus="$1"
out="${2:?run.sh: name a directory for the study; see --help}"
shift 2

[ -f "$corpus/sources.tsv" ] || eqssl prepare debian-speech "$corpus"

status=0
eqssl study "$here/study.yaml" "$corpus" "$out" "$@" || status=$?

case " $* " in
    *" --list "*) ;;
    # What there is of a study of which a job has failed is drawn too; of one that could not begin, or was stopped, it is not.
    *) [ "$status" -gt 1 ] || eqssl report "$out" --out "$out/report" --title "Does it help?" ;;
esac

exit "$status"
