#!/usr/bin/env bash
# Pre-trains, fine-tunes and evaluates on debian_speech, by method and seed. README.md says what takes how long.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=recipes/launch.sh
source "$here/../launch.sh"

usage() {
    cat <<'END'
usage: run.sh CORPUS OUT [--size cpu|gpu] [--methods "none mixed per_source equilibrium"] [--seeds "1 2 3"]
              [--inner-lr X] [--sweep "0.01 0.03 0.1"] [--nproc N]

METHODS may also be hubert_mixed, hubert_per_source and hubert_equilibrium: HuBERT instead of wav2vec 2.0, in two iterations
of half the updates each, on clusters of MFCC and then of a layer of the first, which together hear as much audio.

Makes CORPUS with `eqssl prepare debian-speech` if it is not there, then, for every method and seed:
  pre-trains into OUT/pretrain/METHOD-SEED (not for `none`), with the same audio per update in every method,
  fine-tunes into OUT/finetune/METHOD-SEED/SOURCE on 10 minutes of labels, a recogniser for each of six languages,
  evaluates them on the test split into OUT/test/METHOD-SEED/SOURCE,
and prints the table of CER and WER per language over the seeds. What is done is not done again; what was interrupted goes on.

--sweep pre-trains `equilibrium` for about a third of the updates with each inner_lr, prints the validation losses, and ends.

`--nproc N` trains and evaluates in N processes of this machine; a SLURM job does so in its own (recipes/slurm/job.sbatch).

examples:
  run.sh corpora/debian_speech runs/debian_speech --sweep "0.01 0.03 0.1"
  run.sh corpora/debian_speech runs/debian_speech --inner-lr 0.03
  run.sh corpora/debian_speech runs/debian_speech --methods "none mixed" --seeds 1
  run.sh corpora/debian_speech runs/debian_speech --methods "equilibrium hubert_equilibrium"
END
}

case "${1:-}" in
    -h | --help | '')
        usage
        exit 0
        ;;
esac

corpus="$1"
out="${2:?run.sh: name a directory for the runs; see --help}"
shift 2

size=cpu
methods="none mixed per_source equilibrium"
seeds="1 2 3"
inner_lr=0.03
sweep=

while [ $# -gt 0 ]; do
    case "$1" in
        --size) size="${2:?}" ;;
        --methods) methods="${2:?}" ;;
        --seeds) seeds="${2:?}" ;;
        --inner-lr) inner_lr="${2:?}" ;;
        --sweep) sweep="${2:?}" ;;
        --nproc) NPROC_PER_NODE="${2:?}" ;;
        *)
            printf 'run.sh: there is no option `%s`; see --help.\n' "$1" >&2
            exit 2
            ;;
    esac
    shift 2
done

if [ ! -f "$here/pretrain_$size.yaml" ]; then
    printf 'run.sh: there is no size `%s`; it must be `cpu` or `gpu`.\n' "$size" >&2
    exit 2
fi

plain=()
[ -t 2 ] || plain=(--no-rich)

# What sets a method apart. All have the same audio per update, in as many batches: K = 1 takes two of a source.
settings_of() {
    case "$1" in
        mixed) echo equilibrium=null dataset.episodes_per_source=2 dataset.regime=mixed ;;
        per_source) echo equilibrium=null dataset.episodes_per_source=2 ;;
        equilibrium) echo equilibrium.inner_lr="$inner_lr" ;;
        hubert_*) settings_of "${1#hubert_}" ;;
        *)
            printf 'run.sh: there is no method `%s`; there are none, mixed, per_source and equilibrium, the last three with `hubert_` too.\n' \
                "$1" >&2
            exit 2
            ;;
    esac
}

pretrain() { # DIR SETTINGS...
    run_pretrain "$here/pretrain_$size.yaml" "$@"
}

run_pretrain() { # CONFIG DIR SETTINGS...
    launch pretrain "$2" --config-file "$1" ${plain[@]+"${plain[@]}"} --config dataset.corpus="$corpus" "${@:3}"
}

# The larger model has more layers to choose from, and more frames to cluster.
case "$size" in
    cpu) layer=2 clusters=200 ;;
    *) layer=6 clusters=500 ;;
esac

pretrain_hubert() { # DIR SETTINGS...
    local directory="$1" config="$here/pretrain_hubert_$size.yaml"
    shift
    label "$out/labels/mfcc" --clusters 100
    run_pretrain "$config" "$directory/iteration-1" dataset.labels="$out/labels/mfcc" "$@"
    label "$directory/labels" --checkpoint "$directory/iteration-1" --layer "$layer" --clusters "$clusters"
    run_pretrain "$config" "$directory/iteration-2" dataset.labels="$directory/labels" "$@"
}

label() { # DIR ARGUMENTS OF `eqssl labels`...
    local names=() source
    for source in $sources; do
        names+=(--source "$source")
    done
    launch labels "$corpus" "$1" "${names[@]}" "${@:2}"
}

# What cannot be started is refused before anything is made.
plan pretrain

for method in $methods; do
    [ "$method" = none ] || settings_of "$method" >/dev/null
done

[ -f "$corpus/sources.tsv" ] || eqssl prepare debian-speech "$corpus"

if [ -n "$sweep" ]; then
    steps="$(sed -n 's/^  num_steps: *\([0-9]*\).*/\1/p' "$here/pretrain_$size.yaml")"
    steps=$((steps / 300 * 100))
    runs=()
    for value in $sweep; do
        pretrain "$out/sweep/$value" equilibrium.inner_lr="$value" regime.num_steps="$steps" \
            regime.validate_every_n_steps="$steps" regime.checkpoint_every_n_steps="$steps"
        runs+=("$value")
    done
    "$PYTHON" -m eqssl_speech.report "$out/sweep" --run "${runs[@]}"
    exit 0
fi

sources="$(sed -n 's/^  sources: *\[\(.*\)\].*/\1/p' "$here/pretrain_$size.yaml" | tr -d ' ' | tr ',' ' ')"

for source in $sources; do
    [ -d "$out/tokenizer/$source" ] || eqssl tokenizer "$corpus" "$out/tokenizer/$source" --source "$source"
done

for seed in $seeds; do
    for method in $methods; do
        run="$method-$seed"
        pretrained=null

        # shellcheck disable=SC2046  # words
        case "$method" in
            none) ;;
            hubert_*)
                pretrain_hubert "$out/pretrain/$run" $(settings_of "$method") common.seed="$seed"
                pretrained="$out/pretrain/$run/iteration-2"
                ;;
            *)
                pretrain "$out/pretrain/$run" $(settings_of "$method") common.seed="$seed"
                pretrained="$out/pretrain/$run"
                ;;
        esac

        for source in $sources; do
            launch finetune "$out/finetune/$run/$source" --config-file "$here/finetune_$size.yaml" ${plain[@]+"${plain[@]}"} \
                --config dataset.corpus="$corpus" dataset.sources="[$source]" tokenizer="$out/tokenizer/$source" \
                pretrained="$pretrained" common.seed="$seed"

            [ -f "$out/test/$run/$source/summary.json" ] ||
                launch evaluate "$out/finetune/$run/$source" "$corpus" --split test --out "$out/test/$run/$source" --source "$source"
        done
    done
done

table=()
for method in $methods; do
    directories=
    for seed in $seeds; do
        directories="$directories${directories:+,}$out/test/$method-$seed"
    done
    table+=("$method=$directories")
done

"$PYTHON" -m eqssl_speech.report.seeds "${table[@]}"
