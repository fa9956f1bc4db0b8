"""The labels of a recogniser as a tokenizer of Hugging Face transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eqssl_speech.export.files import write_json
from eqssl_speech.export.vocabulary import Vocabulary
from eqssl_speech.text.tokenizer import WORD_BOUNDARY, CtcTokenizer


def write_tokenizer(
    directory: Path, vocabulary: Vocabulary, tokenizer: CtcTokenizer | None
) -> None:
    """Write the files that ``AutoTokenizer`` reads.

    :param directory: Where to; it must exist.
    :param vocabulary: The labels.
    :param tokenizer: Ours that they are of, if they are. Without it, pieces of several characters are turned into text
        only, as what is known of them does not say which of them a word is made of.
    """
    if _is_of_characters(vocabulary):
        _write_character_tokenizer(directory, vocabulary)
    else:
        _write_piece_tokenizer(directory, vocabulary, tokenizer)


def _is_of_characters(vocabulary: Vocabulary) -> bool:
    silent = vocabulary.silent_indices

    return all(len(p) == 1 for i, p in enumerate(vocabulary.pieces) if i not in silent)


def _list_specials(vocabulary: Vocabulary) -> dict[str, str | None]:
    pieces = vocabulary.pieces
    unknown = [pieces[i] for i in vocabulary.silent_indices if pieces[i] in ("<unk>", "[UNK]")]

    return {
        "pad_token": pieces[vocabulary.blank_index],
        "unk_token": unknown[0] if unknown else None,
        "bos_token": None,
        "eos_token": None,
    }


def _write_character_tokenizer(directory: Path, vocabulary: Vocabulary) -> None:
    specials = _list_specials(vocabulary)

    write_json(directory / "vocab.json", {piece: i for i, piece in enumerate(vocabulary.pieces)})
    write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "processor_class": "Wav2Vec2Processor",
            "word_delimiter_token": vocabulary.word_boundary,
            "do_lower_case": False,
            **specials,
        },
    )
    write_json(directory / "special_tokens_map.json", specials)


def _write_piece_tokenizer(
    directory: Path, vocabulary: Vocabulary, tokenizer: CtcTokenizer | None
) -> None:
    from tokenizers import Tokenizer, decoders, pre_tokenizers  # type: ignore[import-untyped]

    specials = {
        key: piece for key, piece in _list_specials(vocabulary).items() if piece is not None
    }

    fast = Tokenizer(_make_model(vocabulary, tokenizer, specials))

    if tokenizer is not None:
        # As with sentencepiece, the mark of a word stands in front of each, of the first as well.
        fast.pre_tokenizer = pre_tokenizers.Metaspace(WORD_BOUNDARY, "always", split=True)
    fast.decoder = decoders.Sequence(
        [
            decoders.CTC(specials["pad_token"], word_delimiter_token=" ", cleanup=False),
            decoders.Replace(vocabulary.word_boundary, " "),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    fast.save(str(directory / "tokenizer.json"))

    write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "processor_class": "Wav2Vec2Processor",
            "clean_up_tokenization_spaces": False,
            **specials,
        },
    )
    write_json(directory / "special_tokens_map.json", specials)


def _make_model(
    vocabulary: Vocabulary, tokenizer: CtcTokenizer | None, specials: dict[str, str]
) -> Any:
    from tokenizers.models import BPE, Unigram, WordLevel  # type: ignore[import-untyped]

    pieces = vocabulary.pieces
    indices = {piece: i for i, piece in enumerate(pieces)}
    unknown = specials.get("unk_token", pieces[vocabulary.blank_index])

    if tokenizer is None:
        return WordLevel(indices, unk_token=unknown)

    if tokenizer.kind == "unigram":
        return Unigram(list(zip(pieces, tokenizer.scores, strict=True)), unk_id=indices[unknown])

    # Sentencepiece joins whichever two neighbours make the piece of the highest score.
    scores = dict(zip(pieces, tokenizer.scores, strict=True))
    merges = [
        (piece[:i], piece[i:])
        for piece in sorted(pieces, key=lambda piece: -scores[piece])
        if indices[piece] not in vocabulary.silent_indices
        for i in range(1, len(piece))
        if piece[:i] in indices and piece[i:] in indices
    ]

    return BPE(indices, merges, unk_token=unknown, fuse_unk=True)
