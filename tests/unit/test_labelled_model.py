"""What a run predicts follows from its labels, and what does not go together is refused before there is a model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fairseq2.models.wav2vec2 import Wav2Vec2Config
from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig

from eqssl_speech.criteria.collapse import CollapseDetector, CollapseThresholds
from eqssl_speech.data.check import BadFile, SourceReport
from eqssl_speech.data.corpus import DataSource
from eqssl_speech.data.manifest import Manifest, ManifestEntry
from eqssl_speech.error import InputError
from eqssl_speech.models.hubert.config import micro_config
from eqssl_speech.tasks.pretrain import model
from eqssl_speech.tasks.pretrain.model import LabelledModelConfig
from eqssl_speech.tasks.pretrain.sources import _list_labelled


class Host:
    """Stands for the host, which sets the fields that are overridden."""

    def apply_overrides(self, section_name: str, config: Any, overrides: Any) -> Any:
        for name, value in (overrides or {}).items():
            target = config.encoder_config if hasattr(config.encoder_config, name) else config
            setattr(target, name, value)

        return config


@pytest.fixture
def apply(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(model, "wire_object", lambda resolver, kls: Host())

    def apply(config: Any, labelled: tuple[int, ...] | None, **overrides: Any) -> Any:
        labels = None if labelled is None else SimpleNamespace(num_codes=labelled)
        sources: Any = SimpleNamespace(labels=labels)
        resolver: Any = None

        return LabelledModelConfig(resolver, sources).apply_overrides("model", config, overrides)

    return apply


def test_a_hubert_gets_as_many_codes_as_there_are_labels(apply: Any) -> None:
    assert apply(micro_config(), (50, 7)).num_codes == [50, 7]
    assert apply(micro_config(), (50,), num_codes=[50]).num_codes == [50]


def test_a_wav2vec2_is_left_as_it_is(apply: Any) -> None:
    config = Wav2Vec2Config()

    assert apply(config, None, final_dim=3) is config
    assert config.final_dim == 3


@pytest.mark.parametrize(
    ("config", "num_codes", "overrides", "message"),
    [
        (micro_config(), None, {}, "`dataset.labels` is not set"),
        (Wav2Vec2Config(), (5,), {}, "takes no labels"),
        (Wav2Vec2AsrConfig(), None, {}, "supports 'wav2vec2' and 'hubert' only"),
        (micro_config(), (5,), {"num_codes": [6]}, r"is \[6\], but the labels .* have \[5\]"),
        (micro_config(), (5,), {"use_fbank": True}, "`use_fbank`"),
        (
            micro_config(),
            (5,),
            # Of the same stride, but other kernels.
            {"feature_extractor_layer_descs": [(8, 10, 5), *[(8, 4, 2)] * 4, *[(8, 2, 2)] * 2]},
            "kernels and strides",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    apply: Any, config: Any, num_codes: Any, overrides: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        apply(config, num_codes, **overrides)


class Labels:
    """Has labels for the entries that it is given."""

    def __init__(self, labelled: set[int]) -> None:
        self._labelled = labelled

    def is_labelled(self, manifest: Manifest, entry_nr: int) -> bool:
        return entry_nr in self._labelled


def list_labelled(labelled: set[int], max_bad_share: float) -> list[int]:
    manifest = Manifest(
        Path("train.tsv"), Path(), tuple(ManifestEntry(f"{i}.wav", 9) for i in range(10))
    )
    report = SourceReport("ru", "train", manifest.file)
    report.good, report.num_samples = list(range(9)), [9] * 9
    report.bad = [BadFile(Path("9.wav"), 11, "missing", "9.wav: is missing")]
    source = DataSource("ru", "ru", "read", "free", Path())
    labels: Any = Labels(labelled)

    utterances = _list_labelled(source, manifest, report, labels, max_bad_share)

    return [entry_nr for _, entry_nr in utterances.items]


def test_recordings_without_labels_are_left_out_up_to_the_share_of_bad_ones() -> None:
    assert list_labelled({0, 2, 3, 4, 5, 7, 8}, 0.3) == [0, 2, 3, 4, 5, 7, 8]

    with pytest.raises(InputError, match=r"train.tsv: 3 of its 10 recordings have no labels"):
        list_labelled({0, 2, 3, 4, 5, 7}, 0.3)

    # Not for want of labels.
    assert list_labelled(set(range(9)), 0.0) == list(range(9))


def test_a_hubert_that_knows_the_labels_of_all_sources_only_has_learned_nothing() -> None:
    thresholds = CollapseThresholds(num_observations=3, num_grace_steps=100)
    detector = CollapseDetector(thresholds)

    def observe(step: int, loss: float, adapted: float | None = None) -> list[str]:
        warnings = detector.observe(
            "ru", step, plain_loss=loss, chance=4.5, adapted_loss=adapted, chance_is_bound=True
        )

        return [w.kind for w in warnings]

    # On the way down there is nothing to say yet, whatever the inner steps bring.
    assert observe(50, 5.8, adapted=4.0) == []

    assert [observe(step, 5.8) for step in (200, 300)] == [[], []]
    assert observe(400, 5.8) == ["nothing_learned"]
    assert observe(500, 4.0) == []
    assert not detector.standing
