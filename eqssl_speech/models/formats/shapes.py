"""What a model looks like, read from the shapes of its tensors, for files that hold nothing else."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Final, TypeAlias

from fairseq2.models.transformer import TransformerNormOrder
from fairseq2.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2EncoderConfig
from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig
from torch import Tensor

from eqssl_speech.error import InputError
from eqssl_speech.models.formats.names import Family
from eqssl_speech.models.hubert.config import HubertConfig
from eqssl_speech.text.frames import CONVOLUTIONS

AnyConfig: TypeAlias = Wav2Vec2Config | Wav2Vec2AsrConfig | HubertConfig
"""The configuration of a model of one of our families."""

TensorGetter: TypeAlias = Callable[[str], Tensor | None]
"""Returns the tensor of a checkpoint by our name of it; ``None`` if there is none."""

_EXTRACTOR: Final = "encoder_frontend.feature_extractor.layers"
_FRONTEND: Final = "encoder_frontend"

_NUM_HEADS: Final = {48: 2, 192: 4, 768: 12, 1024: 16, 1280: 16, 1920: 16, 2048: 16}
"""The attention heads of released models by their dimensionality: our ``micro`` and ``tiny``, ``base``, ``large``,
XLS-R 1B and HuBERT ``xlarge``, XLS-R 2B, Omnilingual's 3B and 7B."""


class UnknownShapeError(InputError):
    """The shapes of a checkpoint's tensors do not tell all that they would have to."""


def infer_family(get: TensorGetter) -> Family | None:
    """Say what model tensors are of.

    :param get: Returns a tensor.
    :returns: Its family; ``None`` if there is nothing besides an encoder.
    """
    if get("code_embeddings") is not None:
        return "hubert"
    if get("quantizer.entries") is not None:
        return "wav2vec2"

    return None if get("final_proj.weight") is None else "wav2vec2_asr"


def infer_encoder_config(
    where: str,
    get: TensorGetter,
    *,
    num_heads: int | None = None,
    is_pre_norm: bool | None = None,
) -> Wav2Vec2EncoderConfig:
    """Find out what an encoder looks like.

    How it is regularised shows in no shape, and is as in the large models: not at all.

    :param where: The checkpoint, in words.
    :param get: Returns a tensor of it.
    :param num_heads: The number of attention heads, which shows in no shape either; by default that of the released
        models of its size.
    :param is_pre_norm: Whether layers begin with their norms; by default as in the released models, those do of which
        each convolution has a norm.
    :raises UnknownShapeError: If the encoder is none that wav2vec 2.0 and HuBERT have, or nothing says its number of
        heads.
    """
    shapes = [tuple(x.shape) for x in _list_numbered(get, f"{_EXTRACTOR}.{{}}.conv.weight")]
    num_layers = len(_list_numbered(get, "encoder.layers.{}.self_attn.q_proj.weight"))

    kernels = [shape[2] for shape in shapes]
    if kernels != [kernel for kernel, _ in CONVOLUTIONS]:
        raise UnknownShapeError(
            f"{where}: its convolutions have the kernels {kernels}, whose strides no tensor tells; give the directory "
            "of a run or of Hugging Face transformers, which say them."
        )

    query = get("encoder.layers.0.self_attn.q_proj.weight")
    inner = get("encoder.layers.0.ffn.inner_proj.weight")
    position = get(f"{_FRONTEND}.pos_encoder.conv.weight_v")

    if query is None or position is None or inner is None:
        raise UnknownShapeError(
            f"{where}: holds no Transformer with a convolutional position encoder; give the directory of the run, "
            "whose model.yaml says what it is."
        )

    model_dim = int(query.shape[0])

    if num_heads is None and model_dim not in _NUM_HEADS:
        raise UnknownShapeError(
            f"{where}: does not say how many attention heads its layers of {model_dim} have; give the directory of a "
            "run or of Hugging Face transformers, which say it."
        )

    has_layer_norms = get(f"{_EXTRACTOR}.1.layer_norm.weight") is not None

    if is_pre_norm is None:
        is_pre_norm = has_layer_norms

    return Wav2Vec2EncoderConfig(
        model_dim=model_dim,
        feature_dim=shapes[-1][0],
        layer_norm_features=not is_pre_norm,
        feature_extractor_layer_descs=[
            (shape[0], kernel, stride) for shape, (kernel, stride) in zip(shapes, CONVOLUTIONS)
        ],
        feature_extractor_bias=get(f"{_EXTRACTOR}.0.conv.bias") is not None,
        feature_extractor_layer_norm_convs=has_layer_norms,
        feature_grad_scale=1.0,
        pos_conv_kernel_size=int(position.shape[2]),
        num_pos_conv_groups=model_dim // int(position.shape[1]),
        num_encoder_layers=num_layers,
        num_encoder_attn_heads=num_heads or _NUM_HEADS[model_dim],
        ffn_inner_dim=int(inner.shape[0]),
        dropout_p=0.0,
        attn_dropout_p=0.0,
        layer_drop_p=0.0,
        norm_order=TransformerNormOrder.PRE if is_pre_norm else TransformerNormOrder.POST,
    )


def infer_config(
    encoder_config: Wav2Vec2EncoderConfig, family: Family, get: TensorGetter
) -> AnyConfig:
    """Find out what a model looks like besides its encoder.

    :param encoder_config: Its encoder.
    :param family: What it is.
    :param get: Returns a tensor of it. What only pre-training needs may be missing, and is as in the base model then.
    """
    if family == "wav2vec2_asr":
        projection = get("final_proj.weight")

        assert projection is not None

        return Wav2Vec2AsrConfig(
            encoder_config=encoder_config, target_vocab_size=int(projection.shape[0])
        )

    if family == "hubert":
        hubert = HubertConfig(encoder_config=encoder_config, init_missing_head=True)

        embeddings = get("code_embeddings")
        if embeddings is not None:
            hubert.num_codes, hubert.final_dim = (
                [int(embeddings.shape[0])],
                int(embeddings.shape[1]),
            )

        return hubert

    config = Wav2Vec2Config(encoder_config=encoder_config)

    entries, target = get("quantizer.entries"), get("final_target_proj.weight")

    if entries is not None and target is not None:
        config.final_dim, config.quantized_dim = map(int, target.shape)
        config.num_codebooks = config.quantized_dim // int(entries.shape[2])
        config.num_codebook_entries = int(entries.shape[1]) // config.num_codebooks

    return config


def _list_numbered(get: TensorGetter, name: str) -> list[Tensor]:
    tensors: list[Tensor] = []

    for i in count():
        tensor = get(name.format(i))
        if tensor is None:
            return tensors
        tensors.append(tensor)

    raise AssertionError
