"""From planned episodes to waveforms."""

from __future__ import annotations

from collections.abc import Sequence

from eqssl_speech.data.episodes import Episode, EpisodePlan
from eqssl_speech.data.loading import BatchLoader, DeadSourceError, Utterances
from eqssl_speech.error import InputError


def load_episode(
    plan: EpisodePlan,
    sources: Sequence[Utterances],
    loader: BatchLoader,
    *,
    skip_dead: bool = False,
) -> Episode:
    """Read the batches of an episode.

    :param plan: What to read.
    :param sources: The utterances of each stream.
    :param loader: Reads them.
    :param skip_dead: Whether an episode of a source none of whose recordings can be read is silent and marked as dead.
    :raises InputError: If it is not.
    """
    utterances = sources[plan.stream]

    try:
        batches = [loader.load(utterances, batch) for batch in plan.batches]
    except DeadSourceError as ex:
        if not skip_dead:
            # The host knows errors by their very class.
            raise InputError(str(ex)) from None

        batches = [loader.make_silence(batch) for batch in plan.batches]

        return Episode(utterances.source_name, batches, plan.seed, is_dead=True)

    return Episode(utterances.source_name, batches, plan.seed)


def load_validation_episode(
    plans: tuple[EpisodePlan, EpisodePlan],
    train: Utterances,
    valid: Utterances,
    loader: BatchLoader,
    *,
    skip_dead: bool = False,
) -> Episode:
    """Read an episode of a validation.

    :param plans: The batches to adapt on and those to evaluate.
    :param train: What the indices of the first mean.
    :param valid: What the indices of the second mean.
    :param loader: Reads them.
    :param skip_dead: See :func:`load_episode`.
    """
    to_adapt, to_evaluate = (
        load_episode(plan, [utterances], loader, skip_dead=skip_dead)
        for plan, utterances in zip(plans, (train, valid))
    )

    return Episode(
        valid.source_name,
        to_adapt.batches + to_evaluate.batches,
        is_dead=to_adapt.is_dead or to_evaluate.is_dead,
    )
