"""The collapse detector says what it sees, once, and only where it can tell."""

from __future__ import annotations

import math

import pytest

from eqssl_speech.criteria.collapse import CollapseDetector, CollapseThresholds, CollapseWarning

CHANCE = math.log2(51)


def kinds(warnings: list[CollapseWarning]) -> list[str]:
    return [w.kind for w in warnings]


def test_healthy_source_raises_no_warning() -> None:
    detector = CollapseDetector()

    for step in range(0, 5000, 500):
        loss = CHANCE - 0.0005 * step

        assert not detector.observe(
            "ru",
            step,
            plain_loss=loss,
            adapted_loss=loss - 0.1,
            accuracy=0.4,
            code_share=0.5,
            chance=CHANCE,
        )

    assert not detector.standing


@pytest.mark.parametrize("codes", [{"code_share": 0.01}, {"code_perplexity": 2.3}])
def test_accuracy_near_one_with_few_codes_is_codebook_collapse(codes: dict[str, float]) -> None:
    warnings = CollapseDetector().observe(
        "ru", 100, plain_loss=0.02, accuracy=0.995, chance=CHANCE, **codes
    )

    assert kinds(warnings) == ["codebook_collapse"]
    assert warnings[0].source == "ru"
    assert "Source ru at step 100" in warnings[0].message
    assert "99.5%" in warnings[0].message


@pytest.mark.parametrize(
    ("accuracy", "codes"),
    [
        (0.995, {"code_share": 0.6}),
        (0.995, {"code_perplexity": 90.0}),
        (0.995, {"code_share": 0.6, "code_perplexity": 2.0}),
        (0.5, {"code_share": 0.01}),
        (0.995, {}),
        (None, {"code_share": 0.01}),
    ],
)
def test_one_sign_alone_is_no_codebook_collapse(
    accuracy: float | None, codes: dict[str, float]
) -> None:
    assert not CollapseDetector().observe(
        "ru", 100, plain_loss=1.0, accuracy=accuracy, chance=CHANCE, **codes
    )


def test_loss_pinned_at_chance_warns_after_n_observations_past_the_grace_period() -> None:
    detector = CollapseDetector(CollapseThresholds(num_grace_steps=300, num_observations=3))

    seen = {
        step: kinds(detector.observe("cs", step, plain_loss=CHANCE + 0.03, chance=CHANCE))
        for step in range(100, 900, 100)
    }

    assert [step for step, found in seen.items() if found] == [600]
    assert seen[600] == ["nothing_learned"]


def test_leaving_chance_in_between_starts_the_count_again() -> None:
    detector = CollapseDetector(CollapseThresholds(num_grace_steps=0, num_observations=2))

    losses = [CHANCE, CHANCE - 0.5, CHANCE, CHANCE]

    seen = [
        kinds(detector.observe("cs", step, plain_loss=loss, chance=CHANCE))
        for step, loss in enumerate(losses, start=1)
    ]

    assert seen == [[], [], [], ["nothing_learned"]]


def test_sources_are_counted_apart() -> None:
    detector = CollapseDetector(CollapseThresholds(num_grace_steps=0, num_observations=2))

    for source in ("cs", "nl"):
        assert not detector.observe(source, 1, plain_loss=CHANCE, chance=CHANCE)

    assert [w.source for w in detector.observe("nl", 2, plain_loss=CHANCE, chance=CHANCE)] == ["nl"]
    assert detector.standing == {("nothing_learned", "nl")}


def test_theta_above_chance_with_adapted_loss_below_is_theta_let_go() -> None:
    warnings = CollapseDetector().observe(
        "nl", 40, plain_loss=CHANCE + 3, adapted_loss=CHANCE - 1, chance=CHANCE
    )

    assert kinds(warnings) == ["theta_let_go"]
    assert "inner_lr" in warnings[0].message
    assert "outer_weights=uniform" in warnings[0].message
    assert "start_after_num_steps" in warnings[0].message


@pytest.mark.parametrize(
    ("above", "adapted"), [(0.05, -1.0), (-0.5, -1.0), (3.0, 0.5), (3.0, None)]
)
def test_theta_is_not_let_go_within_the_margin_or_where_adapting_does_not_help(
    above: float, adapted: float | None
) -> None:
    adapted_loss = None if adapted is None else CHANCE + adapted

    assert not CollapseDetector().observe(
        "nl", 40, plain_loss=CHANCE + above, adapted_loss=adapted_loss, chance=CHANCE
    )


def test_warning_comes_once_until_it_clears() -> None:
    detector = CollapseDetector()

    seen = [
        kinds(
            detector.observe(
                "nl", step, plain_loss=CHANCE + above, adapted_loss=CHANCE - 1, chance=CHANCE
            )
        )
        for step, above in enumerate([3.0, 3.0, -0.5, 3.0])
    ]

    assert seen == [["theta_let_go"], [], [], ["theta_let_go"]]


def test_loss_that_is_not_finite_is_not_judged_and_clears_nothing() -> None:
    detector = CollapseDetector()

    detector.observe("nl", 1, plain_loss=CHANCE + 3, adapted_loss=CHANCE - 1, chance=CHANCE)

    assert not detector.observe("nl", 2, plain_loss=math.nan, adapted_loss=1.0, chance=CHANCE)
    assert detector.standing == {("theta_let_go", "nl")}


def test_messages_are_sentences() -> None:
    detector = CollapseDetector(CollapseThresholds(num_grace_steps=0, num_observations=1))

    warnings = [
        *detector.observe("a", 9, plain_loss=CHANCE, accuracy=1.0, code_share=0.0, chance=CHANCE),
        *detector.observe("b", 9, plain_loss=CHANCE + 1, adapted_loss=1.0, chance=CHANCE),
    ]

    assert kinds(warnings) == ["codebook_collapse", "nothing_learned", "theta_let_go"]
    for warning in warnings:
        assert warning.message.startswith("Source ")
        assert warning.message.endswith(".")


@pytest.mark.parametrize(
    "fields",
    [
        {"max_accuracy": 1.2},
        {"min_code_share": -0.1},
        {"min_code_perplexity": -1.0},
        {"chance_eps": -0.1},
        {"num_grace_steps": -1},
        {"let_go_margin": math.nan},
        {"num_observations": 0},
    ],
)
def test_thresholds_out_of_range_are_refused_by_name(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(fields))}` must be"):
        CollapseThresholds(**fields)  # type: ignore[arg-type]
