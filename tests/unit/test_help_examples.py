"""The examples that ``--help`` gives can be typed as they stand."""

from __future__ import annotations

import re
import shlex

import pytest

from eqssl_speech import cli

# `pretrain` and `finetune` hand their arguments on to the host.
COMMANDS = [
    [],
    ["prepare"],
    ["doctor"],
    ["check"],
    ["labels"],
    ["tokenizer"],
    ["evaluate"],
    ["transcribe"],
    ["align"],
    ["export"],
    ["lm"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "eqssl")
def test_each_example_of_the_help_is_understood(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main([*command, "--help"])

    examples = re.findall(r"^  eqssl (.+?)(?:  .*)?$", capsys.readouterr().out, re.MULTILINE)

    assert examples

    for example in examples:
        args = shlex.split(example.partition(" > ")[0])

        if args[0] not in cli._RECIPES:
            cli._create_parser().parse_args(args)


def test_the_help_of_tokenizer_shows_no_innards_of_argparse(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["tokenizer", "--help"])

    output = capsys.readouterr().out

    assert "option_strings" not in output
    assert "such as % and &" in " ".join(output.split())
