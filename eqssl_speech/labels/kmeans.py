"""k-means in mini-batches over features that lie on disk in blocks: the memory does not hang on how many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from eqssl_speech.error import InputError
from eqssl_speech.labels.codebook import Codebook, Quantizer
from eqssl_speech.labels.features import one_thread_per_operator
from eqssl_speech.labels.settings import FeatureStamp

Frames = npt.NDArray[np.float32]

_BATCH_SIZE: Final = 10_000
"""Frames of a mini-batch, as in HuBERT's recipe."""

_BUFFER_BYTES: Final = 192 << 20
"""Blocks of about this size together are shuffled in memory at once."""

_SAMPLE_SIZE: Final = 30_000
"""Frames on which k-means++ chooses the first centroids, or 20 for each cluster if these are more."""

_NUM_STARTS: Final = 5
"""The best of so many first choices is taken."""

_MAX_EPOCHS: Final = 20

_MIN_GAIN: Final = 1e-3
"""An epoch that brings the mean squared distance down by less, relative to it, is the last."""


def require_sklearn() -> None:
    """Refuse early where scikit-learn is not installed.

    :raises InputError: If it is not.
    """
    try:
        import_module("sklearn.cluster")
        import_module("threadpoolctl")
    except ImportError:
        raise InputError(
            "`eqssl labels` clusters with scikit-learn, which is not installed; "
            "run `pip install 'eqssl_speech[labels]'`, or give `--codebook`."
        ) from None


def require_frames(num_frames: int, num_clusters: int, group: str) -> None:
    """Refuse what is too little to be clustered.

    :param num_frames: The frames that there are.
    :param num_clusters: The number of clusters.
    :param group: The source that they are of; ``""`` if they are of all.
    :raises InputError: If there are fewer frames than clusters.
    """
    if num_frames >= num_clusters:
        return

    more = "take more audio with `--hours-for-clustering`"

    if not group:
        raise InputError(
            f"There are {num_frames} frames of audio for {num_clusters} clusters; lower `--clusters`, or {more}."
        )

    raise InputError(
        f"There are {num_frames} frames of audio of the source `{group}` for {num_clusters} clusters; lower "
        f"`--clusters`, {more}, or leave the source out with `--source`."
    )


def fit_codebook(
    blocks: Sequence[Path],
    stamp: FeatureStamp,
    num_clusters: int,
    *,
    seed: Sequence[int],
    group: str = "",
    on_progress: Callable[[int, int], None] | None = None,
) -> Codebook:
    """Cluster features.

    :param blocks: Files of ``numpy.save``. *Shape:* ``(T, D)`` each, float32.
    :param stamp: What they are.
    :param num_clusters: The number of clusters.
    :param seed: Chooses the first centroids, and the order of the mini-batches.
    :param group: The source that they are of; ``""`` if they are of all.
    :param on_progress: Called with the epochs done and how many there are at the most; at the end, with how many there
        were.
    :returns: The centroids: the same for the same blocks and seed, whatever the number of threads.
    :raises InputError: If there are fewer frames than clusters.
    """
    sizes = [_open_block(block).shape[0] for block in blocks]

    require_frames(sum(sizes), num_clusters, group)

    cluster = import_module("sklearn.cluster")
    rng = np.random.default_rng(seed)

    # Chunks are spread over threads without an effect on the numbers, but not so the products within.
    blas = import_module("threadpoolctl").threadpool_limits(1, user_api="blas")

    with blas, one_thread_per_operator():
        sample = _draw_sample(blocks, sizes, max(_SAMPLE_SIZE, 20 * num_clusters), rng)

        model = cluster.MiniBatchKMeans(
            num_clusters,
            init=_choose_start(cluster, sample, stamp, num_clusters, rng),
            n_init=1,
            batch_size=_BATCH_SIZE,
            reassignment_ratio=0.0,
            compute_labels=False,
            random_state=0,
        )

        return _train(model, blocks, sizes, stamp, sample, rng, on_progress)


def _train(
    model: Any,
    blocks: Sequence[Path],
    sizes: Sequence[int],
    stamp: FeatureStamp,
    sample: Frames,
    rng: np.random.Generator,
    on_progress: Callable[[int, int], None] | None,
) -> Codebook:
    best = np.inf
    centers: Frames | None = None

    for epoch in range(_MAX_EPOCHS):
        if on_progress is not None:
            on_progress(epoch, _MAX_EPOCHS)

        for batch in _iterate_batches(blocks, sizes, max(_BATCH_SIZE, model.n_clusters), rng):
            model.partial_fit(batch)

        distance = _measure(model.cluster_centers_, sample, stamp)
        is_last = distance > best * (1.0 - _MIN_GAIN)

        if centers is None or distance < best:
            # The next epoch moves them in place.
            best, centers = distance, model.cluster_centers_.copy()

        if is_last:
            break

    if on_progress is not None:
        on_progress(epoch + 1, epoch + 1)

    assert centers is not None

    return _make_codebook(centers, stamp)


def _choose_start(
    cluster: Any, sample: Frames, stamp: FeatureStamp, num_clusters: int, rng: np.random.Generator
) -> Frames:
    starts = []

    for _ in range(_NUM_STARTS):
        seed = int(rng.integers(1 << 31))
        centers, _ = cluster.kmeans_plusplus(sample, num_clusters, random_state=seed)

        starts.append((_measure(centers, sample, stamp), centers))

    best: Frames = min(starts, key=lambda start: start[0])[1]

    return best


def _draw_sample(
    blocks: Sequence[Path], sizes: Sequence[int], num_frames: int, rng: np.random.Generator
) -> Frames:
    total = sum(sizes)

    indices = np.sort(rng.choice(total, min(num_frames, total), replace=False))
    parts, start = [], 0

    for block, size in zip(blocks, sizes):
        lower, upper = np.searchsorted(indices, [start, start + size])
        parts.append(np.asarray(_open_block(block)[indices[lower:upper] - start]))
        start += size

    return np.concatenate(parts)


def _iterate_batches(
    blocks: Sequence[Path], sizes: Sequence[int], batch_size: int, rng: np.random.Generator
) -> Iterator[Frames]:
    """Go through all frames once, in an order that is shuffled over blocks and within what memory holds."""
    held: list[Frames] = []
    order = rng.permutation(len(blocks))

    for position, block_nr in enumerate(order):
        held.append(np.array(_open_block(blocks[block_nr])))

        num_held = sum(len(part) for part in held)
        is_last = position == len(order) - 1
        if not is_last and (sum(p.nbytes for p in held) < _BUFFER_BYTES or num_held < batch_size):
            continue

        frames = np.concatenate(held)
        held.clear()
        shuffled = rng.permutation(num_held)

        for start in range(0, num_held, batch_size):
            yield frames[shuffled[start : start + batch_size]]


def _measure(centers: Frames, sample: Frames, stamp: FeatureStamp) -> float:
    _, distance = Quantizer(_make_codebook(centers, stamp)).assign(torch.from_numpy(sample))

    return distance / len(sample)


def _make_codebook(centers: Frames, stamp: FeatureStamp) -> Codebook:
    return Codebook(np.ascontiguousarray(centers, dtype=np.float32), stamp)


def _open_block(file: Path) -> Frames:
    block: Frames = np.load(file, mmap_mode="r")

    return block
