#!/usr/bin/env bash
# Starts `eqssl` in one process, in several on this machine, or in those of a SLURM job. The recipes source it for two
# functions: `eqssl`, which is always one process, and `launch`, which is as many as there are to be.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

launch_usage() {
    cat <<'END'
usage: launch.sh [--nproc N] [--dry-run] pretrain|finetune|evaluate|labels [ARGUMENTS OF `eqssl` ...]

Starts `eqssl` in
  one process,
  N processes of this machine with --nproc N (`gpu`: one for each GPU; or the variable NPROC_PER_NODE), by torchrun,
  the processes of the job within a SLURM job, by srun: --ntasks-per-node of them on each node, one for each GPU.
--dry-run prints the command instead. PYTHON names the interpreter; else it is the active environment's or .venv's.

examples:
  launch.sh pretrain runs/mine --config-file my.yaml
  launch.sh --nproc 8 pretrain runs/mine --config-file my.yaml
  recipes/slurm/job.sbatch --nodes=4 -- recipes/launch.sh pretrain runs/mine --config-file my.yaml
END
}

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

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 2
}

eqssl() {
    "$PYTHON" -m eqssl_speech "$@"
}

launch() { # ARGUMENTS OF eqssl...
    local command
    plan "$@"
    "${command[@]}"
}

# Sets `command`.
plan() {
    case "${NPROC_PER_NODE:-}" in
        '') ;;
        1)
            command=("$PYTHON" -m eqssl_speech "$@")
            # In a SLURM job the host would look for the other processes of the job.
            [ -z "${SLURM_JOB_ID:-}" ] || command=(env RANK=0 WORLD_SIZE=1 "${command[@]}")
            return
            ;;
        gpu | [1-9] | [1-9][0-9])
            command=("$PYTHON" -m torch.distributed.run --standalone --nproc-per-node "$NPROC_PER_NODE" -m eqssl_speech "$@")
            return
            ;;
        *) fail "\`--nproc\` (NPROC_PER_NODE) must be \`gpu\` or a number from 1 to 99, but is \`$NPROC_PER_NODE\` instead." ;;
    esac

    if [ -n "${SLURM_JOB_ID:-}" ]; then
        plan_srun "$@"
    else
        command=("$PYTHON" -m eqssl_speech "$@")
    fi
}

# One process for each GPU, so that all get the signals and SLURM the exit status; torchrun keeps both to itself. The host
# would find its place in the job too, but then takes the GPU of its local rank, whichever of them the job has.
plan_srun() {
    local tasks="${SLURM_NTASKS_PER_NODE:-}" first
    [ -n "$tasks" ] ||
        fail "SLURM job $SLURM_JOB_ID does not say how many processes a node has: submit it with \`--ntasks-per-node\`, one for each GPU."

    [ "${SLURM_GPUS_ON_NODE:-$tasks}" = "$tasks" ] ||
        printf '%s: a node of SLURM job %s has %s GPU(s) but %s process(es): submit it with `--ntasks-per-node=%s`.\n' \
            "${0##*/}" "$SLURM_JOB_ID" "$SLURM_GPUS_ON_NODE" "$tasks" "$SLURM_GPUS_ON_NODE" >&2

    read -r first < <(scontrol show hostnames "$SLURM_JOB_NODELIST")

    command=(
        env "MASTER_ADDR=$first" "MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 10000))}"
        "WORLD_SIZE=$((tasks * SLURM_JOB_NUM_NODES))" "LOCAL_WORLD_SIZE=$tasks"
        # When a process ends before the others, they have a minute to write a checkpoint or to find out who it was.
        srun --kill-on-bad-exit=0 --wait=60 --export=ALL
        --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$((tasks * SLURM_JOB_NUM_NODES))" --ntasks-per-node="$tasks"
        # The host's hybrid sharding takes neighbours for processes of one node.
        --distribution=block
        # Srun does not take this from the job.
        ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"}
        bash -c 'RANK="$SLURM_PROCID" LOCAL_RANK="$SLURM_LOCALID" exec "$@"' launch
        "$PYTHON" -m eqssl_speech "$@"
    )
}

main() {
    local dry_run='' command

    while [ $# -gt 0 ]; do
        case "$1" in
            --nproc)
                NPROC_PER_NODE="${2:-}"
                shift
                [ $# -eq 0 ] || shift
                [ -n "$NPROC_PER_NODE" ] || fail '`--nproc` needs a number of processes, or `gpu`.'
                ;;
            --dry-run)
                dry_run=1
                shift
                ;;
            -h | --help)
                launch_usage
                exit 0
                ;;
            *) break ;;
        esac
    done

    case "${1:-}" in
        pretrain | finetune | evaluate | labels) ;;
        '') fail 'there is no command; see --help.' ;;
        *) fail "\`$1\` does not run in several processes; there are \`pretrain\`, \`finetune\`, \`evaluate\` and \`labels\`." ;;
    esac

    plan "$@"

    if [ -n "$dry_run" ]; then
        printf '%q ' "${command[@]}"
        printf '\n'
    else
        exec "${command[@]}"
    fi
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    main "$@"
fi
