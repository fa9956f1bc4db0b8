"""Clusters, the nearest of them, and the codebooks that keep them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from eqssl_speech.error import InputError
from eqssl_speech.labels import kmeans
from eqssl_speech.labels.codebook import Codebook, Quantizer, codebook_file, read_codebook
from eqssl_speech.labels.kmeans import fit_codebook, require_sklearn
from eqssl_speech.labels.settings import MFCC, FeatureStamp

STAMP = FeatureStamp("layer", 320, 6, family="hubert", checkpoint="0" * 64, layer=1)


def write_blocks(directory: Path, frames: np.ndarray, size: int = 700) -> list[Path]:
    """Frames as blocks of uneven size."""
    files = []

    for number, start in enumerate(range(0, len(frames), size)):
        files.append(directory / f"{number}.npy")
        np.save(files[-1], frames[start : start + size])

    return files


def make_blobs(rng: np.random.Generator, num_blobs: int, num_frames: int) -> np.ndarray:
    """Frames around a few places, far from each other."""
    centres = rng.standard_normal((num_blobs, STAMP.dim)) * 10
    chosen = rng.integers(num_blobs, size=num_frames)

    return (centres[chosen] + 0.1 * rng.standard_normal((num_frames, 6))).astype(np.float32)


def test_the_nearest_centroid_is_found_whatever_comes_at_once() -> None:
    rng = np.random.default_rng(1)
    centroids = rng.standard_normal((37, 6)).astype(np.float32)
    frames = rng.standard_normal((5000, 6)).astype(np.float32)
    quantizer = Quantizer(Codebook(centroids, STAMP))

    distances = ((frames[:, None].astype(np.float64) - centroids[None]) ** 2).sum(2)
    labels, total = quantizer.assign(torch.from_numpy(frames))

    np.testing.assert_array_equal(labels, distances.argmin(1))
    np.testing.assert_allclose(total, distances.min(1).sum(), rtol=1e-10)
    assert labels.dtype == torch.int64

    for size in (1, 7, 2048):
        parts = [quantizer.assign(part)[0] for part in torch.from_numpy(frames).split(size)]
        assert torch.equal(torch.cat(parts), labels)


def test_of_centroids_as_near_the_lowest_is_taken() -> None:
    rng = np.random.default_rng(1)
    distinct = rng.standard_normal((20, 6)).astype(np.float32)
    # Each three times, so that ties fall to any column of the product.
    centroids = np.concatenate([distinct, distinct[::-1], distinct])
    quantizer = Quantizer(Codebook(centroids, STAMP))

    labels, _ = quantizer.assign(torch.from_numpy(rng.standard_normal((3000, 6))).float())

    assert int(labels.max()) < 20

    on_centroids, distance = quantizer.assign(torch.from_numpy(distinct))
    assert on_centroids.tolist() == list(range(20))
    assert distance == pytest.approx(0.0, abs=1e-10)


def test_planted_clusters_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    frames = make_blobs(rng, 12, 30_000)

    seen: list[tuple[int, int]] = []
    codebook = fit_codebook(
        write_blocks(tmp_path, frames),
        STAMP,
        12,
        seed=[1, 0],
        on_progress=lambda *x: seen.append(x),
    )

    _, distance = Quantizer(codebook).assign(torch.from_numpy(frames))

    # That of six numbers with a deviation of 0.1 around their centre.
    assert distance / len(frames) == pytest.approx(6 * 0.01, rel=0.05)
    assert codebook.centroids.shape == (12, 6)
    assert codebook.centroids.dtype == np.float32
    assert seen[0] == (0, 20)
    assert len(seen) < 10
    # It stopped early, after each epoch that it told of.
    assert seen[-1] == (len(seen) - 1, len(seen) - 1)


def test_clusters_depend_on_the_seed_but_not_on_threads(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    files = write_blocks(tmp_path, rng.standard_normal((20_000, 6)).astype(np.float32))
    num_torch_threads = torch.get_num_threads()

    def fit(seed: int, num_threads: int) -> str:
        torch.set_num_threads(num_threads)
        try:
            with threadpool_limits(num_threads):
                return fit_codebook(files, STAMP, 40, seed=[seed, 0]).digest
        finally:
            torch.set_num_threads(num_torch_threads)

    assert fit(1, 1) == fit(1, 2) == fit(1, 3)
    assert fit(2, 1) != fit(1, 1)


def test_frames_pass_through_memory_in_parts_and_all_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.arange(60_000, dtype=np.float32).reshape(-1, 6)
    files = write_blocks(tmp_path, frames, size=900)
    sizes = [np.load(f).shape[0] for f in files]
    # Three blocks at once.
    monkeypatch.setattr(kmeans, "_BUFFER_BYTES", 3 * 900 * 6 * 4)

    def run(seed: int) -> list[np.ndarray]:
        return list(kmeans._iterate_batches(files, sizes, 1000, np.random.default_rng(seed)))

    batches = run(1)
    together = np.concatenate(batches)

    assert max(len(b) for b in batches) == 1000
    np.testing.assert_array_equal(together[np.argsort(together[:, 0])], frames)
    # A batch mixes blocks.
    assert len(set((batches[0][:, 0] // (900 * 6)).astype(int).tolist())) >= 3
    assert not np.array_equal(np.concatenate(run(2)), together)


def test_too_few_frames_are_refused(tmp_path: Path) -> None:
    files = write_blocks(tmp_path, np.zeros((30, 6), np.float32), size=20)

    with pytest.raises(
        InputError, match="There are 30 frames of audio for 31 clusters; lower `--c"
    ):
        fit_codebook(files, STAMP, 31, seed=[1])

    with pytest.raises(
        InputError,
        match=r"There are 30 frames of audio of the source `de` for 31 clusters; .*, or leave the so",
    ):
        fit_codebook(files, STAMP, 31, seed=[1], group="de")

    assert fit_codebook(files, STAMP, 30, seed=[1]).num_codes == 30


@pytest.mark.parametrize("best", [0, 1, 2])
def test_the_best_centres_are_kept(tmp_path: Path, best: int) -> None:
    frames = np.random.default_rng(1).standard_normal((40, 6)).astype(np.float32)
    files = write_blocks(tmp_path, frames)
    mean = frames.mean(0, keepdims=True)

    class Clusters:
        """A library whose centres near the mean until an epoch, and leave it in the next."""

        n_clusters = 1
        num_epochs = 0

        def partial_fit(self, batch: np.ndarray) -> None:
            self.cluster_centers_ = getattr(self, "cluster_centers_", mean.copy())
            # In place, as the library does.
            self.cluster_centers_[:] = mean + 1.0 + abs(self.num_epochs - best)
            self.num_epochs += 1

    clusters = Clusters()
    codebook = kmeans._train(
        clusters, files, [40], STAMP, frames, np.random.default_rng(1), on_progress=None
    )

    np.testing.assert_array_equal(codebook.centroids, mean + 1.0)
    assert clusters.num_epochs == best + 2


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    require_sklearn()

    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(
        InputError, match=r"not installed; run `pip install 'eqssl_speech\[labels\]'"
    ):
        require_sklearn()


def test_a_codebook_is_read_as_it_was_written(tmp_path: Path) -> None:
    centroids = np.random.default_rng(1).standard_normal((5, 6)).astype(np.float32)
    codebook = Codebook(centroids, STAMP)
    file = codebook_file(tmp_path, "de")

    codebook.write(file)
    read = read_codebook(file)

    np.testing.assert_array_equal(read.centroids, centroids)
    assert (read.features, read.digest) == (STAMP, codebook.digest)

    first = file.read_bytes()
    codebook.write(file)
    assert file.read_bytes() == first

    assert Codebook(centroids + 1e-6, STAMP).digest != codebook.digest
    assert Codebook(centroids, MFCC).digest != codebook.digest


def test_a_codebook_that_was_altered_is_refused(tmp_path: Path) -> None:
    file = codebook_file(tmp_path, "")
    centroids = np.random.default_rng(1).standard_normal((5, 6)).astype(np.float32)

    with pytest.raises(InputError, match=r"codebook\.safetensors: there is no such codebook"):
        read_codebook(file)

    Codebook(centroids, STAMP).write(file)
    content = file.read_bytes()

    for altered in (content[:-1], content[:30], b"", json.dumps({"a": 1}).encode()):
        file.write_bytes(altered)
        with pytest.raises(InputError, match="is no codebook, or is damaged; copy it again"):
            read_codebook(file)

    flipped = bytearray(content)
    flipped[-1] ^= 1
    file.write_bytes(bytes(flipped))
    with pytest.raises(InputError, match="is no codebook, or is damaged"):
        read_codebook(file)
