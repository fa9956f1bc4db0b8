#!/usr/bin/env bash
# Pre-trains on the sample, fine-tunes to a small recogniser of English, evaluates it and transcribes three recordings.
# README.md says what to expect.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=recipes/launch.sh
source "$here/../launch.sh"

usage() {
    cat <<'END'
usage: run.sh [OUT] [--regime equilibrium|conventional|none] [--seed N] [--nproc N] [--pretrain-only]
              [ARGUMENTS OF `eqssl pretrain` ...]

1. Pre-trains recipes/quickstart/equilibrium.yaml into OUT/REGIME (OUT: runs/quickstart in the repository; REGIME: equilibrium;
   `conventional` is the same without the section `equilibrium`), writes OUT/summary.json and OUT/summary.png and prints
   the table of all pre-training runs in OUT.
2. Fine-tunes recipes/quickstart/finetune.yaml from it (with `none` from random weights, without step 1) into OUT/REGIME-finetuned.
3. Evaluates it (summary.json, summary.png and hypotheses.tsv in OUT/REGIME-finetuned/valid).
4. Transcribes three recordings that it was not trained on.
Started again, it goes on from the last checkpoint. `--seed` is that of the fine-tuning. `--nproc N` trains and evaluates in N processes of
this machine; a SLURM job does so in its own (recipes/slurm/job.sbatch).

examples:
  run.sh
  run.sh --regime conventional                                the same data and cost without equilibrium
  run.sh --regime none                                        the same fine-tuning from random weights
  run.sh runs/try --pretrain-only --config regime.num_steps=100
END
}

out="$root/runs/quickstart"
regime=equilibrium
seed=1
nproc="${NPROC_PER_NODE:-}"
pretrain_only=
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
        --regime | --seed | --nproc)
            name="${1#--}"
            printf -v "$name" '%s' "${2:-}"
            shift
            [ $# -eq 0 ] || shift
            ;;
        --regime=* | --seed=* | --nproc=*)
            name="${1%%=*}"
            printf -v "${name#--}" '%s' "${1#*=}"
            shift
            ;;
        --pretrain-only)
            pretrain_only=1
            shift
            ;;
        *)
            extra+=("$1")
            shift
            ;;
    esac
done

case "$regime" in
    equilibrium | none) ;;
    # Two batches of a source per update, as K = 1 has them: the same audio and the same batches in size, all at theta.
    conventional) extra=(--config equilibrium=null dataset.episodes_per_source=2 ${extra[@]+"${extra[@]}"}) ;;
    *)
        printf 'run.sh: there is no regime `%s`; it must be `equilibrium`, `conventional` or `none`.\n' "$regime" >&2
        exit 2
        ;;
esac

case "$seed" in
    '' | *[!0-9]*)
        printf 'run.sh: `--seed` must be a number, but is `%s` instead.\n' "$seed" >&2
        exit 2
        ;;
esac

NPROC_PER_NODE="$nproc"
plan pretrain # Refuses what cannot be started before anything is made.

if ! "$PYTHON" -c 'import eqssl_speech' 2>/dev/null; then
    printf 'run.sh: eqssl_speech is not installed for %s; run tools/setup.sh first.\n' "$PYTHON" >&2
    exit 1
fi

# Logs that go into a file get no colours and no line breaks at the terminal's width.
plain=()
[ -t 2 ] || plain=(--no-rich)

pretrain() {
    launch pretrain "$out/$regime" --config-file "$here/equilibrium.yaml" ${plain[@]+"${plain[@]}"} ${extra[@]+"${extra[@]}"}

    case " ${extra[*]-} " in
        *" --dump-config "*) exit 0 ;;
    esac

    runs=()
    for name in equilibrium conventional; do
        # A run that has not come to its first validation has nothing to report.
        if [ -d "$out/$name/metrics/valid" ]; then
            runs+=("$name")
        fi
    done

    "$PYTHON" -m eqssl_speech.report "$out" ${runs[@]+--run "${runs[@]}"}
}

finetune() {
    local pretrained="$out/$regime"
    [ "$regime" != none ] || pretrained=null

    [ -d "$out/tokenizer" ] ||
        eqssl tokenizer "$here/corpus" "$out/tokenizer" --source en-drascula-hero --source en-drascula-cast

    launch finetune "$finetuned" --config-file "$here/finetune.yaml" ${plain[@]+"${plain[@]}"} \
        --config tokenizer="$out/tokenizer" pretrained="$pretrained" common.seed="$seed"
}

finetuned="$out/$regime-finetuned"
[ "$seed" = 1 ] || finetuned="$finetuned-seed$seed"

[ "$regime" = none ] || pretrain

if [ -z "$pretrain_only" ]; then
    finetune

    launch evaluate "$finetuned" "$here/corpus" --split valid --out "$finetuned/valid" \
        --source en-drascula-hero --source en-drascula-cast

    # From the validation split, so the model has never been trained on them.
    eqssl transcribe "$finetuned" "$here"/corpus/en-drascula-hero/audio/{140,331}.ogg \
        "$here/corpus/en-drascula-cast/audio/vb3.ogg"
fi

printf 'Finished after %d min %d s.\n' $((SECONDS / 60)) $((SECONDS % 60))
