"""The cost model of a wav2vec 2.0 step: arithmetic and memory traffic by part.

Counted are what any implementation has to do: the matrix products, two operations per multiply-add, three times over
(forward, gradient of the input, gradient of the weight; the first convolution has no gradient of its input); and each
tensor that a product or a pass over the features reads or writes, once per pass. Softmax, norms and activations add
passes but hardly any operations. A part that takes longer than both

    operations / the processor's peak    and    bytes / its memory bandwidth

leaves that much on the table; ``tools/bench_step.py`` prints the share that each part reaches. What the numbers say:

* Processors do 5 to 20 operations in the time that a byte takes from memory, and GPUs 100 to 300 in bfloat16. Forward
  and backward of the feature extractor do 84 a byte in base and 17 in ``tiny`` (float32, 2 x 5 s and 8 x 4 s), those of
  the encoder 86 and 34: bound by arithmetic on the CPU, the more so the wider the model, and not always on a GPU.
* The first convolution does ``2 x 10`` operations for each number that it writes, and is bound by memory alone, as are
  group norm and GELU behind it over 3,200 frames a second: hence one pass for convolution and norm
  (:func:`~eqssl_speech.models.wav2vec2.convolutions.normalized_conv1d`).
* The host's contrast reads and writes ``targets x (distractors + 1) x dim`` numbers some ten times, for logits that
  hold one ``dim``-th of that; one product per utterance does with the logits
  (:func:`~eqssl_speech.models.wav2vec2.contrast.contrast`).
* Scores and weighted sums of attention take ``S`` operations where the rest of a layer takes ``6 model_dim``: 5 % of
  base's encoder at 5 s of audio, 14 % at 15.6 s.
* The random numbers of dropout are in neither. On processors other than Intel's, torch draws them one after another, at
  6.5 ns each on the machine of these figures: a twelfth of base's step on two cores. They have to be the host's.
"""

from __future__ import annotations

from dataclasses import dataclass

from fairseq2.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2EncoderConfig

_NUM_PRODUCTS = 3
"""Of a layer: its output, the gradient of its input, the gradient of its weight."""


@dataclass(frozen=True)
class Cost:
    """What a part of a step costs, forward and backward."""

    flops: float
    """Floating-point operations of its matrix products."""

    num_elements: float
    """Elements read and written; times the size of an element they are bytes."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.num_elements + other.num_elements)

    @property
    def intensity(self) -> float:
        """Operations per element."""
        return self.flops / self.num_elements


def step_costs(
    config: Wav2Vec2Config, batch_size: int, num_samples: int, num_targets: int
) -> dict[str, Cost]:
    """Compute what forward and backward of a step cost, by part.

    :param config: The model; its encoder a Transformer.
    :param batch_size: The number of utterances.
    :param num_samples: The samples of an utterance.
    :param num_targets: The masked frames of an utterance.
    """
    encoder = config.encoder_config
    dim = encoder.model_dim

    extractor, num_frames = _extractor_cost(encoder, batch_size, num_samples)

    num_channels = encoder.feature_dim
    num_rows = batch_size * num_frames

    group_dim = dim // encoder.num_pos_conv_groups
    frontend = (
        _product(num_rows, num_channels, dim)
        + _product(
            num_rows * encoder.num_pos_conv_groups,
            group_dim * encoder.pos_conv_kernel_size,
            group_dim,
            num_inputs=num_rows * dim,
        )
        # Norm, mask, activation, sum.
        + _passes(num_rows * dim, 4)
    )

    layer = (
        _product(num_rows, dim, 4 * dim)
        + _product(num_rows, dim, encoder.ffn_inner_dim)
        + _product(num_rows, encoder.ffn_inner_dim, dim)
        # Scores and sums of values, each head with its part of the dimensions.
        + _product(num_rows, 2 * dim, num_frames)
        # Two norms and two sums; the activation; softmax.
        + _passes(num_rows * dim, 4)
        + _passes(num_rows * encoder.ffn_inner_dim, 1)
        + _passes(num_rows * encoder.num_encoder_attn_heads * num_frames, 1)
    )

    transformer = Cost(0, 0)
    for _ in range(encoder.num_encoder_layers):
        transformer += layer

    num_rows = batch_size * num_targets
    num_codes = config.num_codebooks * config.num_codebook_entries

    quantizer = (
        _product(num_rows, num_channels, num_codes)
        + _product(num_rows, config.num_codebook_entries, config.quantized_dim)
        # Two softmaxes and the noise.
        + _passes(num_rows * num_codes, 3)
    )

    contrast = (
        _product(num_rows, dim, config.final_dim)
        + _product(num_rows, config.quantized_dim, config.final_dim)
        + _product(num_rows, config.final_dim, num_targets)
        # The choice of logits, and the softmax over them.
        + _passes(num_rows * (config.num_distractors + 1), 2)
    )

    return {
        "feature extractor": extractor,
        "frontend rest": frontend,
        "encoder": transformer,
        "quantizer": quantizer,
        "contrast": contrast,
    }


def _extractor_cost(
    config: Wav2Vec2EncoderConfig, batch_size: int, num_samples: int
) -> tuple[Cost, int]:
    """Return the cost of the feature extractor, and the number of frames of an utterance behind it."""
    cost = Cost(0, 0)
    num_frames, num_channels = num_samples, 1

    for i, (out_channels, kernel_size, stride) in enumerate(config.feature_extractor_layer_descs):
        num_inputs = num_frames * num_channels
        num_frames = (num_frames - kernel_size) // stride + 1

        cost += _product(
            batch_size * num_frames,
            num_channels * kernel_size,
            out_channels,
            num_inputs=batch_size * num_inputs,
            num_products=2 if i == 0 else _NUM_PRODUCTS,
        )
        # The activation, and a norm where there is one.
        has_norm = config.feature_extractor_layer_norm_convs or i == 0
        cost += _passes(batch_size * num_frames * out_channels, 2 if has_norm else 1)

        num_channels = out_channels

    return cost, num_frames


def _product(
    num_rows: int,
    input_dim: int,
    output_dim: int,
    *,
    num_inputs: int | None = None,
    num_products: int = _NUM_PRODUCTS,
) -> Cost:
    if num_inputs is None:
        num_inputs = num_rows * input_dim

    num_elements = num_inputs + input_dim * output_dim + num_rows * output_dim

    return Cost(num_products * 2.0 * num_rows * input_dim * output_dim, num_products * num_elements)


def _passes(num_elements: int, num_passes: int) -> Cost:
    # Forward reads and writes; backward reads the gradient and what was kept, and writes a gradient.
    return Cost(0.0, 5.0 * num_elements * num_passes)
