"""A report is one file that shows all that it was given, and asks no network for anything."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from eqssl_speech.cli import main
from eqssl_speech.error import InputError
from eqssl_speech.report.page.inputs import (
    NamedAdaptation,
    NamedEvaluation,
    TrainingRun,
    read_inputs,
)

SOURCES = ("ru-festvox", "es <drascula> & more")

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def write_lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_pretraining(directory: Path, offset: float = 0.0) -> Path:
    """Write what `eqssl pretrain` leaves."""
    steps = range(10, 60, 10)
    valid = [
        {"Step": s, "plain_loss": 5 - s / 40 + offset, "adapted_loss": 4.9 - s / 40, "adaptation_gain": 0.1,
         "accuracy": s / 100, "code_share": 0.9, "chance": 6.6, "code_perplexity": 20 + s, "worst_source": SOURCES[0]}
        for s in steps
    ]  # fmt: skip
    write_lines(directory / "metrics" / "valid.jsonl", valid)
    for source in SOURCES:
        write_lines(directory / "metrics" / "valid" / f"{source}.jsonl", valid)
    write_lines(
        directory / "metrics" / "train.jsonl",
        [
            {
                "Step": s,
                "lr": 1e-3,
                "inner_lr": 0.01,
                "source_grad_cosine": 0.2,
                "total_audio_seconds": 36.0 * s,
            }
            for s in steps
        ],
    )
    (directory / "config.yaml").write_text(
        "model: {family: wav2vec2, arch: tiny}\n"
        "equilibrium: {num_inner_steps: 3, inner_lr: 0.01, outer_weights: last}\n"
    )

    return directory


def write_finetuning(directory: Path) -> Path:
    """Write what `eqssl finetune` leaves."""
    rates = ((10, 90.0), (20, 80.0))
    rows = [{"Step": s, "ctc_loss": 3.0, "macro_cer": rate, "cer": rate} for s, rate in rates]
    write_lines(directory / "metrics" / "valid.jsonl", rows)
    write_lines(directory / "metrics" / "valid" / "ru-festvox.jsonl", rows)
    write_lines(directory / "metrics" / "train.jsonl", [{"Step": 10, "lr": 1e-3, "ctc_loss": 3.0}])
    (directory / "config.yaml").write_text(
        "model: {family: wav2vec2_asr}\npretrained: runs/first\n"
    )

    return directory


def write_evaluation(directory: Path) -> Path:
    """Write what `eqssl evaluate` leaves."""
    directory.mkdir(parents=True)
    rate = {"value": 0.375, "low": 0.31, "high": 0.44}
    scores = {"utterances": 12, "audio_s": 60.0, "cer": rate, "wer": {**rate, "low": None, "high": None}}  # fmt: skip
    content = {
        "format_version": 1,
        "model": "runs/asr, step 20",
        "corpus": "c",
        "split": "test",
        "decoding": "greedy",
        "languages": {"ru": scores},
    }
    (directory / "summary.json").write_text(json.dumps(content))
    (directory / "hypotheses.tsv").write_text("")

    return directory


def write_adaptation(directory: Path) -> Path:
    """Write what `eqssl adapt` leaves, of a model that diverges."""
    directory.mkdir(parents=True)
    content = {
        "version": 1,
        "sources": {"ru-festvox": {"losses": [4.0, 3.5, None]}, "ro": {"losses": [5.0, 4.5, 4.4]}},
    }
    (directory / "adaptation.json").write_text(json.dumps(content))

    return directory


def write_all(directory: Path) -> list[Path]:
    return [
        write_pretraining(directory / "a" / "run"),
        write_pretraining(directory / "b" / "run", 0.3),
        write_finetuning(directory / "asr"),
        write_evaluation(directory / "test"),
        write_adaptation(directory / "adapted"),
    ]


class Page(HTMLParser):
    """What a page links to, and what it says."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.images: list[bytes] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links += [v for k, v in attrs if k in ("href", "src") and v is not None]
        self.ids += [v for k, v in attrs if k == "id" and v is not None]

        if tag == "img":
            assert values["alt"]
            assert values["src"] is not None
            self.images.append(base64.b64decode(values["src"].split(",")[1], validate=True))

        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def make_report(directory: Path, paths: list[Path], *arguments: str) -> Page:
    assert main(["report", *map(str, paths), "--out", str(directory), *arguments]) == 0

    return Page((directory / "report.html").read_text())


def test_all_is_shown_and_nothing_is_fetched(tmp_path: Path) -> None:
    page = make_report(tmp_path / "out", write_all(tmp_path), "--title", "A <b> & c")

    assert not page.open
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert not re.search(
        r"url\(|@import|<script|https?:", (tmp_path / "out" / "report.html").read_text()
    )

    text = " ".join(page.text)
    assert "A <b> & c" in text
    assert "equilibrium, K = 3, last, inner_lr 0.01" in text
    assert "37.5 (31.0 to 44.0)" in text
    # As few parts of a path as tell two runs apart.
    assert {"a/run", "b/run", "asr"} <= set(page.text)

    files = {file.stem: file.read_bytes() for file in (tmp_path / "out").glob("*.png")}
    assert sorted(files.values()) == sorted(page.images)
    assert set(files) == {
        "losses", "average", "gain", "codes", "conflict", "perplexity", "rates", "finetuning", "ctc", "errors",
        "adaptation",
    }  # fmt: skip


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    paths = write_all(tmp_path)
    make_report(tmp_path / "first", paths)
    make_report(tmp_path / "second", paths)

    for file in (tmp_path / "first").iterdir():
        assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes(), file.name


def test_what_a_directory_is_shows_in_what_it_holds(tmp_path: Path) -> None:
    write_all(tmp_path)
    kinds = [type(x) for x in read_inputs([tmp_path, tmp_path / "a", tmp_path / "b" / "run"])]

    assert kinds == [NamedAdaptation, TrainingRun, NamedEvaluation, TrainingRun, TrainingRun]


def test_a_run_that_has_just_begun_is_drawn(tmp_path: Path) -> None:
    run = write_pretraining(tmp_path / "run")
    shutil.rmtree(run / "metrics" / "valid")
    (run / "metrics" / "valid.jsonl").unlink()
    (run / "config.yaml").unlink()

    page = make_report(tmp_path / "out", [run])

    assert {p.stem for p in (tmp_path / "out").glob("*.png")} == {"conflict", "rates"}
    assert "run" in page.text


@pytest.mark.parametrize(
    ("prepare", "error"),
    [
        (lambda path: None, "is no directory; give the output directory of a training"),
        (lambda path: path.mkdir(), "holds no run, evaluation, adaptation or study"),
        (
            lambda path: (path / "metrics").mkdir(parents=True),
            "says nothing yet; let the run go on",
        ),
    ],
)
def test_what_holds_nothing_is_refused(tmp_path: Path, prepare: Any, error: str) -> None:
    prepare(tmp_path / "run")

    with pytest.raises(InputError, match=error):
        read_inputs([tmp_path / "run"])

    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_shows_it_without_a_network(tmp_path: Path, width: int) -> None:
    make_report(tmp_path / "out", write_all(tmp_path))
    page = tmp_path / "out" / "report.html"

    # What the browser itself finds of its pictures, its width, and what it would have fetched.
    probe = (
        "<script>onload=()=>{const i=[...document.images];document.body.dataset.probe=JSON.stringify({"
        "shown:i.filter(x=>x.complete&&x.naturalWidth>0).length,all:i.length,"
        "fetched:performance.getEntriesByType('resource').filter(x=>!x.name.startsWith('data:')).length,"
        "widest:Math.max(...i.map(x=>x.getBoundingClientRect().right)),"
        "scroll:document.documentElement.scrollWidth,width:innerWidth})}</script>"
    )
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace("</body>", probe + "</body>"))

    assert CHROMIUM is not None
    result = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},900", "--virtual-time-budget=5000", "--dump-dom", probed.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip

    match = re.search(r'data-probe="([^"]*)"', result.stdout)
    assert match is not None, result.stderr
    seen = json.loads(match[1].replace("&quot;", '"'))

    assert seen["shown"] == seen["all"] == 11
    assert seen["fetched"] == 0
    # Nothing is wider than the screen; tables scroll by themselves.
    assert seen["scroll"] <= seen["width"]
    assert seen["widest"] <= seen["width"]
