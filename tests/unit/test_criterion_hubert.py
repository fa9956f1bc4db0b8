"""What is measured beside the loss of masked prediction, against values counted by hand."""

from __future__ import annotations

import math

import pytest
import torch
from fairseq2.datasets import SequenceBatch
from fairseq2.metrics import MetricBag

from eqssl_speech.criteria.base import CriterionOutput, LossSection
from eqssl_speech.criteria.hubert import HubertCriterion
from eqssl_speech.criteria.metrics import LabelCounts, SourceMetrics, split_by_source
from eqssl_speech.data.labelled import LabelledBatch
from eqssl_speech.models.hubert import HubertLoss, HubertModel, HubertOutput
from eqssl_speech.models.hubert.config import HubertConfig, micro_config
from eqssl_speech.models.hubert.factory import create_hubert_model
from eqssl_speech.text.frames import num_frames

NUM_SAMPLES = 12_000


def make_model(num_codes: list[int], seed: int = 0) -> HubertModel:
    torch.manual_seed(seed)

    config: HubertConfig = micro_config()
    config.num_codes = num_codes

    return create_hubert_model(config).eval()


def make_batch(num_codes: list[int], seed: int = 0) -> LabelledBatch:
    generator = torch.Generator().manual_seed(seed)

    labels = [
        torch.randint(n, (3, num_frames(NUM_SAMPLES)), generator=generator) for n in num_codes
    ]
    waves = 0.1 * torch.randn(3, NUM_SAMPLES, generator=generator)

    return LabelledBatch(SequenceBatch(waves, None), torch.stack(labels))


def run(
    model: HubertModel, batch: LabelledBatch, section: LossSection
) -> tuple[CriterionOutput, HubertLoss, HubertOutput]:
    torch.manual_seed(7)
    output = HubertCriterion(model, section)(model, batch)

    torch.manual_seed(7)
    loss, model_output = model(
        *batch.audio.as_input(),
        batch.labels,
        unmasked_weight=section.unmasked_weight,
        features_penalty_weight=section.feature_penalty_weight,
    )

    return output, loss, model_output


@pytest.mark.parametrize("num_codes", [[7], [7, 12, 3]], ids=str)
@pytest.mark.parametrize("unmasked_weight", [0.0, 0.5])
def test_values_are_those_counted_by_hand(num_codes: list[int], unmasked_weight: float) -> None:
    model, batch = make_model(num_codes), make_batch(num_codes)
    section = LossSection(feature_penalty_weight=2.0, unmasked_weight=unmasked_weight)

    output, loss, expected = run(model, batch, section)

    num_targets = int(expected.temporal_mask.sum())

    assert output.num_targets == num_targets
    assert output.loss.item() == pytest.approx(loss.aggregate.item() / num_targets)
    assert output.loss.requires_grad
    assert not output.main_loss.requires_grad

    masked, correct, counts, label_counts, perplexities = 0.0, [], [], [], 0.0

    for labels, logits, n in zip(batch.labels, expected.logits, num_codes, strict=True):
        targets = labels[expected.temporal_mask]
        rows = logits.flatten(0, 1)
        predicted = rows.argmax(-1)

        masked += torch.nn.functional.cross_entropy(rows, targets).item() * num_targets
        correct.append(int((predicted == targets).sum()))
        counts += torch.bincount(predicted, minlength=n).tolist()
        label_counts += torch.bincount(targets, minlength=n).tolist()

        share = torch.bincount(predicted, minlength=n) / num_targets
        perplexities += math.exp(-sum(p * math.log(p) for p in share.tolist() if p > 0))

    assert float(output.main_loss) == pytest.approx(masked / num_targets, rel=1e-5)
    assert float(output.num_correct) == pytest.approx(sum(correct) / len(correct))
    assert output.code_counts.tolist() == counts
    assert output.label_counts is not None
    assert output.label_counts.tolist() == label_counts
    assert float(output.code_perplexity) == pytest.approx(perplexities, rel=1e-5)
    assert len(num_codes) <= float(output.prob_perplexity) <= sum(num_codes) * (1 + 1e-5)


def test_what_a_run_is_told_of_the_labels() -> None:
    criterion = HubertCriterion(make_model([7, 12]), LossSection())

    assert criterion.chance == pytest.approx(math.log(7 * 12))
    assert criterion.num_codes == 19
    assert criterion.num_labels == (7, 12)


def test_a_model_whose_logits_are_all_alike_has_nothing_right() -> None:
    model, batch = make_model([7]), make_batch([7])

    with torch.no_grad():
        model.code_embeddings.zero_()

    batch.labels.zero_()

    output, _, _ = run(model, batch, LossSection())

    assert float(output.num_correct) == 0.0
    assert float(output.main_loss) == pytest.approx(math.log(7), rel=1e-5)


def test_labels_are_counted_over_batches_sources_and_ranks() -> None:
    ours, theirs = LabelCounts([2, 3]), LabelCounts([2, 3])

    assert ours.compute() == {}

    ours.update(torch.tensor([3.0, 1.0, 2.0, 2.0, 0.0]))
    theirs.update(torch.tensor([3.0, 1.0, 2.0, 2.0, 0.0]))
    theirs.update(torch.tensor([0.0, 8.0, 0.0, 0.0, 8.0]))

    row = ours.merge_state([theirs]).compute()

    # 6 and 10 of 16; 4, 4 and 8 of 16.
    entropy = -(6 / 16 * math.log2(6 / 16) + 10 / 16 * math.log2(10 / 16)) + 1.5

    assert row["majority_share"] == pytest.approx((10 / 16 + 8 / 16) / 2)
    assert row["label_entropy"] == pytest.approx(entropy)

    assert ours.reset().compute() == {}


def test_a_source_has_what_its_labels_say_beside_its_losses() -> None:
    model, batch = make_model([7]), make_batch([7])
    output, _, _ = run(model, batch, LossSection())

    bag = MetricBag(torch.device("cpu"))

    for name in ("heard", "unheard"):
        SourceMetrics(bag, name).add(7, (7,))

    SourceMetrics(bag, "heard").update_plain(output)

    values = {name: metric.compute() for name, metric in bag.metrics.items()}
    rows = split_by_source(values, ["heard", "unheard"])

    assert values == {}
    assert output.label_counts is not None

    share = float(output.label_counts.max()) / output.num_targets

    assert rows["heard"]["majority_share"] == pytest.approx(share)
    assert 0 < rows["heard"]["label_entropy"] <= math.log2(7)
    assert "label_entropy" not in rows["unheard"]
