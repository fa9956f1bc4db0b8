"""The recipes start one process, several on a machine, or those of a SLURM job, and stay in the queue of the latter."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from launch_programs import Programs
from recipe_runs import ENV, FEW_STEPS, REPOSITORY

RECIPES = REPOSITORY / "recipes"
LAUNCH = RECIPES / "launch.sh"
JOB = RECIPES / "slurm" / "job.sbatch"

SCRIPTS = sorted(
    file
    for folder in (RECIPES, REPOSITORY / "tools")
    for file in folder.rglob("*")
    if file.suffix in (".sh", ".sbatch")
)

# What SLURM says of itself in a job of two nodes with two processes each.
SLURM = {
    "SLURM_JOB_ID": 30017,
    "SLURM_JOB_NODELIST": "gpu-[03,07]",
    "SLURM_JOB_NUM_NODES": 2,
    "SLURM_NTASKS_PER_NODE": 2,
    "SLURM_CPUS_PER_TASK": 6,
    "SLURM_PROCID": 0,
}

ARGS = ["pretrain", "runs/my run", "--config", "dataset.sources=[a, b]", "x='$HOME'"]


@pytest.fixture
def programs(tmp_path) -> Programs:
    return Programs(tmp_path)


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_script_is_valid_shell(file):
    result = subprocess.run(["bash", "-n", str(file)], capture_output=True, text=True)

    assert result.returncode == 0, result.stderr


def test_one_process_is_the_default(programs):
    result = programs.run(LAUNCH, *ARGS)

    assert result.returncode == 0, result.stderr

    (call,) = programs.calls()

    assert call.args == ["-m", "eqssl_speech", *ARGS]
    assert call.env == {}


@pytest.mark.parametrize("slurm", [{}, SLURM], ids=["alone", "in a job"])
@pytest.mark.parametrize("nproc", ["2", "16", "gpu"])
def test_several_processes_of_a_machine_are_started_by_torchrun(programs, nproc, slurm):
    programs.run(LAUNCH, "--nproc", nproc, *ARGS, **slurm)
    programs.run(LAUNCH, *ARGS, NPROC_PER_NODE=nproc, **slurm)

    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", nproc]

    assert [c.args for c in programs.calls()] == [[*torchrun, "-m", "eqssl_speech", *ARGS]] * 2


def test_slurm_starts_the_processes_and_each_knows_its_place(programs):
    result = programs.run(LAUNCH, *ARGS, **SLURM)

    assert result.returncode == 0, result.stderr

    (srun,) = programs.calls("srun")

    assert srun.args[: srun.args.index("bash")] == [
        "--kill-on-bad-exit=0",
        "--wait=60",
        "--export=ALL",
        "--nodes=2",
        "--ntasks=4",
        "--ntasks-per-node=2",
        "--distribution=block",
        "--cpus-per-task=6",
    ]

    calls = programs.calls("python")

    assert [c.args for c in calls] == [["-m", "eqssl_speech", *ARGS]] * 4
    assert [c.env for c in calls] == [
        {
            "RANK": str(rank),
            "WORLD_SIZE": "4",
            "LOCAL_RANK": str(rank % 2),
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "gpu-03",
            "MASTER_PORT": "20017",
        }
        for rank in range(4)
    ]


def test_one_process_within_a_job_does_not_look_for_the_others(programs):
    programs.run(LAUNCH, "--nproc", "1", *ARGS, **SLURM)

    (call,) = programs.calls()

    assert call.args == ["-m", "eqssl_speech", *ARGS]
    assert call.env == {"RANK": "0", "WORLD_SIZE": "1"}


@pytest.mark.parametrize("slurm", [{}, SLURM], ids=["alone", "in a job"])
def test_dry_run_prints_what_would_be_started(programs, slurm):
    result = programs.run(LAUNCH, "--dry-run", *ARGS, **slurm)

    assert result.returncode == 0, result.stderr
    assert {c.program for c in programs.calls()} <= {"scontrol"}

    command = shlex.split(result.stdout)

    assert command[-len(ARGS) - 3 :] == [programs.python, "-m", "eqssl_speech", *ARGS]
    assert ("srun" in command) == bool(slurm)


@pytest.mark.parametrize(
    ("args", "env", "words"),
    [
        (["--nproc", "0", "pretrain"], {}, ["--nproc", "`0`"]),
        (["--nproc", "two", "pretrain"], {}, ["--nproc", "`two`"]),
        (["--nproc"], {}, ["--nproc", "needs"]),
        (["pretrain"], {"NPROC_PER_NODE": "-1"}, ["NPROC_PER_NODE", "`-1`"]),
        (["pretrain"], {"SLURM_JOB_ID": 5}, ["job 5", "--ntasks-per-node"]),
        (["transcribe", "x"], {}, ["`transcribe`", "`evaluate`"]),
        (["--nproc", "2"], {}, ["no command", "--help"]),
    ],
)
def test_what_cannot_be_started_is_refused_in_a_sentence(programs, args, env, words):
    result = programs.run(LAUNCH, *args, **env)

    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert programs.calls() == []

    for word in words:
        assert word in result.stderr


def test_job_with_idle_gpus_says_so_and_runs(programs):
    result = programs.run(LAUNCH, *ARGS, **SLURM, SLURM_GPUS_ON_NODE=8)

    assert result.returncode == 0
    assert "8 GPU(s) but 2 process(es)" in result.stderr
    assert len(programs.calls("python")) == 4


def test_job_script_submits_itself_with_a_place_for_its_log(programs, tmp_path):
    result = programs.run(JOB, "--nodes=4", "--partition=a b", "--", LAUNCH, *ARGS)

    assert result.returncode == 0, result.stderr

    (call,) = programs.calls()

    assert call.program == "sbatch"
    assert call.args == ["--nodes=4", "--partition=a b", str(JOB), str(LAUNCH), *ARGS]

    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", JOB.read_text(), re.MULTILINE))

    assert (tmp_path / options["output"]).parent.is_dir()
    assert options["open-mode"] == "append"
    assert "requeue" in options
    # Not `B:`, which the script would get, and not the processes.
    assert re.fullmatch(r"USR1@\d+", options["signal"])
    assert options["ntasks-per-node"] == options["gpus-per-node"]

    # Sbatch reads options up to the first command only.
    assert "#SBATCH" not in JOB.read_text().partition("set -euo")[2]


@pytest.mark.parametrize("args", [[], ["--nodes=4"], ["--nodes=4", "--"]])
def test_job_script_without_a_command_submits_nothing(programs, args):
    result = programs.run(JOB, *args)

    assert result.returncode == 2
    assert "there is no command" in result.stderr
    assert programs.calls() == []


@pytest.mark.parametrize(
    ("status", "requeued"),
    [(0, False), (1, False), (2, False), (137, False), (75, True), (138, True)],
)
def test_job_goes_back_into_the_queue_if_it_can_go_on(programs, status, requeued):
    result = programs.run(JOB, LAUNCH, *ARGS, **SLURM, FAILING="pretrain", STATUS=status)

    assert result.returncode == status

    requeues = [c.args for c in programs.calls("scontrol") if c.args[0] == "requeue"]

    assert requeues == ([["requeue", "30017"]] if requeued else [])


# What each recipe runs in several processes, and what in one.
RECIPE_COMMANDS = {
    "quickstart": ({"pretrain", "finetune", "evaluate"}, {"tokenizer", "transcribe"}),
    "hubert_quickstart": ({"labels", "pretrain"}, set()),
    "debian_speech": ({"pretrain", "finetune", "evaluate", "labels"}, {"tokenizer"}),
}


def start_recipe(programs: Programs, name: str, tmp_path: Path) -> list[object]:
    if name != "debian_speech":
        return [RECIPES / name / "run.sh", tmp_path / "out"]

    (tmp_path / "corpus").mkdir(exist_ok=True)
    (tmp_path / "corpus" / "sources.tsv").touch()

    args = ["--methods", "equilibrium hubert_mixed", "--seeds", "1", "--size", "gpu"]

    return [RECIPES / name / "run.sh", tmp_path / "corpus", tmp_path / "out", *args]


@pytest.mark.parametrize("name", RECIPE_COMMANDS)
def test_recipe_trains_and_evaluates_in_the_processes_of_a_job(programs, tmp_path, name):
    result = programs.run(*start_recipe(programs, name, tmp_path), **SLURM)

    assert result.returncode == 0, result.stderr

    calls = [c for c in programs.calls("python") if c.subcommand is not None]
    many = {c.subcommand for c in calls if c.env.get("WORLD_SIZE") == "4"}
    one = {c.subcommand for c in calls if "WORLD_SIZE" not in c.env}

    assert (many, one) == RECIPE_COMMANDS[name]


@pytest.mark.parametrize(
    ("name", "stage"), [(n, s) for n, (many, _) in RECIPE_COMMANDS.items() for s in sorted(many)]
)
def test_recipe_that_was_asked_to_stop_ends_there_and_is_put_back(programs, tmp_path, name, stage):
    command = start_recipe(programs, name, tmp_path)

    result = programs.run(JOB, *command, **SLURM, FAILING=stage, STATUS=75)

    assert result.returncode == 75
    assert programs.calls("python")[-1].subcommand == stage
    assert programs.calls()[-1].args == ["requeue", "30017"]


@pytest.mark.parametrize("name", RECIPE_COMMANDS)
def test_recipe_takes_the_number_of_processes(programs, tmp_path, name):
    command = start_recipe(programs, name, tmp_path)

    result = programs.run(*command, "--nproc", "4")

    assert result.returncode == 0, result.stderr

    for call in programs.calls():
        is_shared = call.subcommand in RECIPE_COMMANDS[name][0]

        assert ("torch.distributed.run" in call.args) == is_shared

    result = programs.run(*command, "--nproc", "none")

    assert result.returncode == 2
    assert "`none`" in result.stderr


@pytest.mark.slow
def test_quickstart_trains_in_two_processes(tmp_path):
    settings = FEW_STEPS | {
        "dataset.sources": "[ru-festvox, es-drascula]",
        "dataset.audio_seconds_per_update": 24,
    }

    result = subprocess.run(
        [
            RECIPES / "quickstart" / "run.sh", tmp_path, "--nproc", "2", "--pretrain-only",
            "--config", *(f"{key}={value}" for key, value in settings.items()),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env=ENV | {"PYTHON": sys.executable},
    )  # fmt: skip

    output = result.stdout + result.stderr

    assert result.returncode == 0, output

    # Two sources, K = 1: each process takes one of them, and what the update costs is what it costs in one process.
    assert (
        "An update has 24 s of audio: 2 episode(s), 1 on each of 2 replica(s) of 1 rank(s), one after the other, with "
        "2 batch(es) of 6.00 s on each rank." in output
    )

    run = tmp_path / "equilibrium"

    assert (run / "checkpoints" / "step_4" / "trainer" / "rank_01.pt").is_file()

    rows = [json.loads(line) for line in (run / "metrics" / "train.jsonl").read_text().splitlines()]

    # Batches end with whole recordings or within them, rounded down to a sample per crop.
    assert rows[-1]["audio_seconds_per_update"] == pytest.approx(24, abs=0.01)

    assert "equilibrium" in (tmp_path / "summary.json").read_text()


@pytest.mark.parametrize("extra", [[], ["--list"]])
def test_the_study_is_run_and_drawn(programs, tmp_path, extra):
    (tmp_path / "sources.tsv").touch()

    script = RECIPES / "equilibrium_study" / "run.sh"
    result = programs.run(script, tmp_path, tmp_path / "out", *extra)

    assert result.returncode == 0, result.stderr
    # A list of what there is to do draws nothing.
    expected = ["study"] if extra else ["study", "report"]
    assert [call.subcommand for call in programs.calls("python")] == expected
