"""What files of fairseq say besides tensors."""

from __future__ import annotations

from collections.abc import Mapping

from eqssl_speech.models.checkpoint import Inert


def find_setting(content: object, name: str) -> object | None:
    """Find a setting that a model was trained with.

    fairseq stores settings under ``cfg`` or, older versions, ``args``, and those of the encoder of a fine-tuned model
    within them.

    :param content: What :func:`~eqssl_speech.models.checkpoint.load_content` has read.
    :param name: The name of the setting, like ``encoder_attention_heads``.
    :returns: Its value; ``None`` if there is none.
    """
    if isinstance(content, Inert):
        content = vars(content)

    if not isinstance(content, Mapping):
        return None

    if content.get(name) is not None:
        return content[name]  # type: ignore[no-any-return]

    for key in ("cfg", "args", "model", "w2v_args", "_content", "_val"):
        value = find_setting(content.get(key), name)
        if value is not None:
            return value

    return None
