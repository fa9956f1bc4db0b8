"""Opens a model of whatever origin: a run of ours, a fairseq2 asset, or a checkpoint of another library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from fairseq2.device import META_DEVICE
from fairseq2.models.wav2vec2 import (
    Wav2Vec2Config,
    Wav2Vec2EncoderConfig,
    create_wav2vec2_model,
)
from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig, create_wav2vec2_asr_model
from fairseq2.utils.structured import StandardValueConverter, StructureError
from torch import Tensor
from torch.nn import Module

from eqssl_speech.error import InputError
from eqssl_speech.models.assets import find_card, open_asset, read_asset_config
from eqssl_speech.models.checkpoint import (
    MODEL_FILE,
    TENSOR_FILE_SUFFIXES,
    RunCheckpoint,
    find_checkpoint,
    holds_steps,
    load_content,
    pick_tensors,
    read_model_yaml,
    read_run_tensors,
)
from eqssl_speech.models.formats.fairseq import find_setting
from eqssl_speech.models.formats.names import (
    FAIRSEQ,
    Family,
    Library,
    find_library,
    list_spellings,
)
from eqssl_speech.models.formats.shapes import (
    AnyConfig,
    TensorGetter,
    UnknownShapeError,
    infer_config,
    infer_encoder_config,
    infer_family,
)
from eqssl_speech.models.formats.transformers_config import (
    ModelType,
    parse_config,
    parse_encoder_config,
    parse_model_type,
)
from eqssl_speech.models.formats.transformers_directory import (
    is_transformers_directory,
    read_directory_config,
    read_directory_tensors,
    require_normalized_audio,
)
from eqssl_speech.models.hubert import HubertConfig, create_hubert_model
from eqssl_speech.models.hubert.interop import NUM_SPECIAL_SYMBOLS, drop_special_symbols
from eqssl_speech.models.recognizer_info import read_recognizer_info
from eqssl_speech.models.speech_checkpoint import FAMILY_CONFIGS, SpeechCheckpoint
from eqssl_speech.models.wav2vec2.config import expects_normalized_audio

_FAMILIES: Final = " or ".join(FAMILY_CONFIGS)


def open_checkpoint(spec: str | Path, step: int | None = None) -> SpeechCheckpoint:
    """Read a model.

    :param spec: The output directory of `eqssl pretrain` or `eqssl finetune` (of whose steps the one of the best score
        is taken, or the last), or one of its ``step_N`` directories; a directory of Hugging Face transformers; a
        ``.pt`` or ``.safetensors`` file of tensors, of fairseq, fairseq2, transformers or torchaudio, described by a
        run's ``model.yaml`` if there is one beside it; or the name of a fairseq2 asset of the family ``wav2vec2``,
        ``wav2vec2_asr`` or ``hubert``, which is downloaded.
    :param step: The step of a run.
    :raises InputError: If there is no such checkpoint, it cannot be read, or it is not of such a model.
    """
    path = find_path(spec)

    if step is not None and (path is None or not holds_steps(path)):
        raise InputError(
            f"{spec}: is one checkpoint, of which `--step` cannot choose; leave `--step` out, or give the output "
            "directory of the run."
        )

    if path is None:
        return open_asset(find_card(str(spec)))

    directory = path if path.is_dir() else path.parent

    if is_transformers_directory(directory):
        return _open_transformers(path, directory)

    return _open_run(path, step) if path.is_dir() else _open_file(path)


def read_encoder_config(spec: str | Path) -> Wav2Vec2EncoderConfig | None:
    """Read what an encoder looks like, without its tensors.

    :param spec: As for :func:`open_checkpoint`.
    :returns: Its configuration, or ``None`` where there are only tensors, whose shapes do not tell it.
    :raises InputError: If there is no such checkpoint.
    """
    path = find_path(spec)

    if path is None:
        return read_asset_config(find_card(str(spec))).encoder_config

    if is_transformers_directory(path):
        return parse_encoder_config(*read_directory_config(path))

    if path.is_dir():
        checkpoint = find_checkpoint(path)
        if checkpoint.family is not None and checkpoint.config is not None:
            where = checkpoint.model_dir.parent.parent

            return _parse_model(where, checkpoint.family, checkpoint.config)[1].encoder_config

    try:
        return open_checkpoint(spec).encoder_config
    except UnknownShapeError:
        return None


def read_encoder_type(spec: str | Path) -> ModelType:
    """Read what an encoder is, or was before it became a recogniser.

    :param spec: As for :func:`open_checkpoint`.
    :returns: ``wav2vec2`` where only the shapes of an encoder are known, which are the same in both.
    :raises InputError: If there is no such checkpoint.
    """
    path = find_path(spec)

    if path is None:
        family = find_card(str(spec)).field("model_family").as_(str)

        return "hubert" if family == "hubert" else "wav2vec2"

    if is_transformers_directory(path):
        return parse_model_type(*read_directory_config(path))

    if path.is_dir():
        checkpoint = find_checkpoint(path)
        if checkpoint.config is not None:
            return _find_encoder_type(checkpoint)

    try:
        opened = open_checkpoint(spec)
    except UnknownShapeError:
        return "wav2vec2"

    return opened.encoder_type


def make_empty_model(family: Family, config: AnyConfig) -> Module:
    """Make a model whose parameters have shapes only."""
    with META_DEVICE:
        return make_model(family, config)


def make_model(family: Family, config: AnyConfig) -> Module:
    """Make a model with new parameters."""
    if family == "wav2vec2_asr":
        assert isinstance(config, Wav2Vec2AsrConfig)

        return create_wav2vec2_asr_model(config)

    if family == "hubert":
        assert isinstance(config, HubertConfig)

        return create_hubert_model(config)

    assert isinstance(config, Wav2Vec2Config)

    return create_wav2vec2_model(config)


def find_path(spec: str | Path) -> Path | None:
    """Find the file or directory that is meant; ``None`` if it can be an asset only.

    :raises InputError: If it looks like a path, and there is none.
    """
    path = Path(spec)
    if path.exists():
        return path

    if isinstance(spec, Path) or "/" in spec or path.suffix in TENSOR_FILE_SUFFIXES:
        raise InputError(
            f"{spec}: there is no such checkpoint; correct the path, or train it first."
        )

    return None


def _open_run(path: Path, step: int | None) -> SpeechCheckpoint:
    checkpoint = find_checkpoint(path, step)

    is_whole_run = checkpoint.step_nr is not None and checkpoint.model_dir.parent.name != path.name
    source = f"{path}, step {checkpoint.step_nr}" if is_whole_run else str(path)

    if checkpoint.family is None or checkpoint.config is None:
        return _open_tensors(source, path, read_run_tensors(checkpoint), {})

    family, config = _parse_model(
        checkpoint.model_dir.parent.parent, checkpoint.family, checkpoint.config
    )

    return SpeechCheckpoint(
        source,
        family,
        config,
        read_run_tensors(checkpoint),
        None,
        path,
        _find_encoder_type(checkpoint),
        checkpoint,
    )


def _find_encoder_type(checkpoint: RunCheckpoint) -> ModelType:
    if checkpoint.family == "wav2vec2_asr":
        directory = checkpoint.run_dir
        info = None if directory is None else read_recognizer_info(directory)

        return "hubert" if (info or {}).get("encoder_type") == "hubert" else "wav2vec2"

    return "hubert" if checkpoint.family == "hubert" else "wav2vec2"


def _parse_model(
    directory: Path, name: str, content: Mapping[str, object]
) -> tuple[Family, AnyConfig]:
    """Parse what ``model.yaml`` in a directory says."""
    where = directory / MODEL_FILE

    for family, kls in FAMILY_CONFIGS.items():
        if family != name:
            continue

        try:
            return family, StandardValueConverter().structure(content, kls)
        except StructureError as ex:
            cause: BaseException = ex
            while cause.__cause__ is not None:
                cause = cause.__cause__

            raise InputError(
                f"{where}: the configuration of the model cannot be read ({cause}); "
                "use the version of fairseq2 that it was made with."
            ) from None

    raise InputError(
        f"{where}: is of the model family `{name}`; only models of {_FAMILIES} can be read."
    )


def _open_file(path: Path) -> SpeechCheckpoint:
    content = load_content(path)
    tensors = pick_tensors(path, content)

    # Of a run, with what is beside its checkpoints.
    name, config = read_model_yaml(path.parent)
    if name is not None and config is not None and find_library(tensors) is None:
        family, parsed = _parse_model(path.parent, name, config)

        return SpeechCheckpoint(str(path), family, parsed, tensors, None, path)

    return _open_tensors(str(path), path, tensors, content)


def _open_tensors(
    source: str, path: Path, tensors: Mapping[str, Tensor], content: object
) -> SpeechCheckpoint:
    """Open what has no configuration with it: its shapes tell."""
    tensors = _strip_wrapper(tensors)
    library = find_library(tensors)
    family = _guess_family(tensors, library)
    get = _make_getter(tensors, library, family)

    num_heads = find_setting(content, "encoder_attention_heads")
    num_heads = num_heads if isinstance(num_heads, int) else None
    is_pre_norm = find_setting(content, "layer_norm_first")

    if library is None:
        is_pre_norm = get("encoder.layer_norm.weight") is not None

    encoder_config = infer_encoder_config(
        source,
        get,
        num_heads=num_heads,
        is_pre_norm=is_pre_norm if isinstance(is_pre_norm, bool) else None,
    )
    if library is None:
        # Ours may have either norm, or both.
        encoder_config.layer_norm_features = get("encoder_frontend.layer_norm.weight") is not None

    config = infer_config(encoder_config, family, get)

    if (
        library is FAIRSEQ
        and isinstance(config, HubertConfig)
        and get("code_embeddings") is not None
    ):
        config.num_codes = [config.num_codes[0] - NUM_SPECIAL_SYMBOLS]

    checkpoint = SpeechCheckpoint(source, family, config, tensors, library, path)

    if num_heads is None:
        checkpoint = replace(checkpoint, guessed=("num_encoder_attn_heads",))

    return _convert(checkpoint)


def _guess_family(tensors: Mapping[str, Tensor], library: Library | None) -> Family:
    # A head for pre-training is called by another name in each family, so each is asked for its own.
    for family in FAMILY_CONFIGS:
        if infer_family(_make_getter(tensors, library, family)) == family:
            return family

    return "wav2vec2"


def _open_transformers(path: Path, directory: Path) -> SpeechCheckpoint:
    where, data = read_directory_config(directory)
    model_type = parse_model_type(where, data)
    encoder_config = parse_encoder_config(where, data)

    if expects_normalized_audio(encoder_config):
        require_normalized_audio(directory)

    if path.is_dir():
        tensors = read_directory_tensors(directory)
    else:
        tensors = pick_tensors(path, load_content(path))

    tensors = _strip_wrapper(tensors)

    library = find_library(tensors)
    if library is None:
        raise InputError(
            f"{path}: holds no tensors of a wav2vec 2.0 or HuBERT of transformers (the first is "
            f"`{next(iter(tensors))}`); choose another checkpoint."
        )

    get = _make_getter(tensors, library, "wav2vec2_asr")
    family: Family = model_type if get("final_proj.weight") is None else "wav2vec2_asr"

    config = parse_config(where, data, encoder_config, family)

    return _convert(SpeechCheckpoint(str(path), family, config, tensors, library, path, model_type))


def _convert(checkpoint: SpeechCheckpoint) -> SpeechCheckpoint:
    """Give the tensors of a checkpoint our names; those that the model has not keep theirs."""
    library = checkpoint.library
    if library is None:
        return checkpoint

    names = make_empty_model(checkpoint.family, checkpoint.config).state_dict()
    spellings = list_spellings(names, checkpoint.family, library)

    tensors = {spellings.get(name, name): x for name, x in checkpoint.tensors.items()}

    if library is FAIRSEQ and isinstance(checkpoint.config, HubertConfig):
        drop_special_symbols(tensors, checkpoint.config.num_codes)

    return replace(checkpoint, tensors=tensors)


def _make_getter(
    tensors: Mapping[str, Tensor], library: Library | None, family: Family
) -> TensorGetter:
    def get(name: str) -> Tensor | None:
        if library is None:
            return tensors.get(name)

        for theirs, ours in list_spellings([name], family, library).items():
            if ours == name and theirs in tensors:
                return tensors[theirs]

        return None

    return get


def _strip_wrapper(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
