"""The freezing schedule freezes by the number of the step alone, and what is frozen does not move by a bit."""

from __future__ import annotations

import pytest
import torch
from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrModel, create_wav2vec2_asr_model
from fairseq2.nn import BatchLayout
from torch import Tensor
from torch.optim import AdamW

from eqssl_speech.models.wav2vec2.asr import micro_asr_config
from eqssl_speech.models.wav2vec2.freezing import FreezeSchedule

PARTS = {
    "feature_extractor": "encoder_frontend.feature_extractor.",
    "frontend": "encoder_frontend.",
    "encoder": "encoder.",
    "masker": "masker.",
    "head": "final_proj.",
}


def make_model() -> Wav2Vec2AsrModel:
    torch.manual_seed(0)

    return create_wav2vec2_asr_model(micro_asr_config()).train()


def part_of(name: str) -> str:
    return next(part for part, prefix in PARTS.items() if name.startswith(prefix))


def trainable_parts(model: Wav2Vec2AsrModel) -> list[str]:
    states: dict[str, set[bool]] = {}
    for name, param in model.named_parameters():
        states.setdefault(part_of(name), set()).add(param.requires_grad)

    assert all(len(state) == 1 for state in states.values()), "a part is frozen by halves"

    return [part for part in PARTS if states[part] == {True}]


def snapshot(model: Wav2Vec2AsrModel) -> dict[str, Tensor]:
    return {name: param.detach().clone() for name, param in model.named_parameters()}


def moved_parts(before: dict[str, Tensor], model: Wav2Vec2AsrModel) -> list[str]:
    moved = {part_of(n) for n, p in model.named_parameters() if not torch.equal(p, before[n])}

    return [part for part in PARTS if part in moved]


def train(model: Wav2Vec2AsrModel, optimizer: AdamW, step_nr: int) -> None:
    torch.manual_seed(step_nr)

    logits, _ = model(torch.randn(2, 16_000), BatchLayout((2, 16_000), None))
    logits.log_softmax(dim=-1)[..., 1].mean().neg().backward()

    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


ALL = list(PARTS)
BUT_EXTRACTOR = ALL[1:]


@pytest.mark.parametrize(
    ("feature_extractor", "num_encoder_steps", "expected"),
    [
        (True, 0, [BUT_EXTRACTOR] * 5),
        (False, 0, [ALL] * 5),
        (0, 0, [ALL] * 5),
        (True, 2, [["head"], ["head"], BUT_EXTRACTOR, BUT_EXTRACTOR, BUT_EXTRACTOR]),
        (False, 2, [["head"], ["head"], ALL, ALL, ALL]),
        (1, 0, [BUT_EXTRACTOR, ALL, ALL, ALL, ALL]),
        (1, 3, [["head"], ["head"], ["head"], ALL, ALL]),
        (4, 2, [["head"], ["head"], BUT_EXTRACTOR, BUT_EXTRACTOR, ALL]),
    ],
)
def test_parts_thaw_by_the_number_of_the_step(
    feature_extractor: bool | int, num_encoder_steps: int, expected: list[list[str]]
) -> None:
    model = make_model()
    schedule = FreezeSchedule(
        model, feature_extractor=feature_extractor, num_encoder_steps=num_encoder_steps
    )
    schedule.prepare()

    # In any order, as a resumed run starts anywhere.
    for step_nr in (1, 2, 3, 4, 5, 2, 5, 1):
        schedule.apply(step_nr)

        assert trainable_parts(model) == expected[step_nr - 1]


def test_prepare_freezes_only_what_never_thaws() -> None:
    for feature_extractor, expected in ((True, BUT_EXTRACTOR), (7, ALL), (False, ALL)):
        model = make_model()

        FreezeSchedule(model, feature_extractor=feature_extractor, num_encoder_steps=9).prepare()

        assert trainable_parts(model) == expected


def test_frozen_parameters_do_not_move_by_a_bit() -> None:
    model = make_model()
    # Weight decay and momentum that would move everything.
    optimizer = AdamW(model.parameters(), lr=0.01, betas=(0.99, 0.98), weight_decay=0.5)
    schedule = FreezeSchedule(model, feature_extractor=4, num_encoder_steps=2)
    schedule.prepare()

    for step_nr, expected in enumerate(
        [["head"], ["head"], BUT_EXTRACTOR, BUT_EXTRACTOR, ALL, ALL], start=1
    ):
        schedule.apply(step_nr)
        before = snapshot(model)

        train(model, optimizer, step_nr)

        assert moved_parts(before, model) == expected, step_nr


def test_a_part_that_is_frozen_after_it_learned_does_not_move_by_its_momentum() -> None:
    model = make_model()
    optimizer = AdamW(model.parameters(), lr=0.01, betas=(0.99, 0.98), weight_decay=0.5)

    train(model, optimizer, 1)

    # As after a resume with other settings.
    FreezeSchedule(model, feature_extractor=True, num_encoder_steps=5).apply(2)
    before = snapshot(model)
    train(model, optimizer, 2)

    assert moved_parts(before, model) == ["head"]


@pytest.mark.parametrize(
    ("feature_extractor", "num_encoder_steps", "is_static"),
    [(True, 0, True), (False, 0, True), (0, 0, True), (3, 0, False), (True, 1, False)],
)
def test_the_graph_is_static_where_nothing_thaws(
    feature_extractor: bool | int, num_encoder_steps: int, is_static: bool
) -> None:
    schedule = FreezeSchedule(
        make_model(), feature_extractor=feature_extractor, num_encoder_steps=num_encoder_steps
    )

    assert schedule.has_static_graph == is_static


def test_a_model_without_masker_is_frozen_too() -> None:
    config = micro_asr_config()
    config.use_masking = False
    model = create_wav2vec2_asr_model(config)

    FreezeSchedule(model, feature_extractor=False, num_encoder_steps=1).apply(1)

    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        "final_proj.weight",
        "final_proj.bias",
    }


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"num_encoder_steps": -1}, "`num_encoder_steps` must be greater than or equal to 0"),
        ({"feature_extractor": -2}, "`feature_extractor` must be greater than or equal to 0"),
    ],
)
def test_a_negative_number_of_steps_is_refused(settings: dict[str, int], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        FreezeSchedule(make_model(), **settings)
