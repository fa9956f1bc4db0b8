"""The host's reports of a mistake in the configuration, in one sentence instead of a stack trace."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from importlib import import_module
from logging import Filter, LogRecord
from typing import Final, final

from fairseq2.logging import log
from fairseq2.recipe.error import RecipeConfigParseError
from typing_extensions import override

from eqssl_speech.tasks.ranks import explain_lost_contact, is_lost_contact
from eqssl_speech.tasks.signals import stop_request

_FIELD: Final = re.compile(
    r"^(?:`(?P<field>[\w.]+)` (?:field )?|Value of the (?P<key>\S+) key )cannot be structured\.$"
)

_EXTRA_KEYS: Final = re.compile(r"fields of `<class '(?P<kls>[\w.]+)'>`.* extra key\(s\) (?P<keys>.+)\.$")  # fmt: skip

_CHOICES: Final = re.compile(
    r"^Value must be .*, but is (?P<value>.*) instead\. Supported values are (?P<choices>.+)\.$"
)

_CLASS: Final = re.compile(r"<class '(?:[\w.]+\.)?(\w+)'>")


def report_mistakes_in_one_sentence() -> None:
    """Have the host's log say what is wrong with a configuration in one sentence."""
    if not any(isinstance(f, _OneSentence) for f in log.logger.filters):
        log.logger.addFilter(_OneSentence())


def explain_config_error(ex: RecipeConfigParseError) -> str:
    """Make one sentence of the chain of errors that the host raises for a configuration.

    :param ex: What the host raised.
    :returns: Names the key, what is wrong with it, and what to do.
    """
    chain = list(_list_causes(ex))
    path, matches = [], [_FIELD.match(str(e)) for e in chain]

    for match in matches:
        if match is not None:
            path.append(match["field"] or match["key"])

    where, last = ".".join(path), str(chain[-1])

    if match := _EXTRA_KEYS.search(last):
        return _explain_extra_keys(where, match["keys"].split(", "), match["kls"])

    if match := _CHOICES.match(last):
        return f"`{where}` must be one of {match['choices']}, but is {match['value']} instead."

    if path:
        what = _CLASS.sub(r"\1", last).rstrip(".")

        return f"`{where}` cannot be used: {what[:1].lower()}{what[1:]}; correct the value."

    # Of a file: the host's sentence, and where the YAML library found it.
    reasons = [str(e).rstrip(".") for e in (chain[0], chain[-1])]
    reason = " (".join(dict.fromkeys(" ".join(r.split()) for r in reasons))

    return f"{reason}{')' if ' (' in reason else ''}; correct `--config-file` or `--config`."


def _list_causes(ex: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = ex

    while cause is not None:
        yield cause

        cause = cause.__cause__


def _explain_extra_keys(where: str, keys: list[str], kls_name: str) -> str:
    module, _, name = kls_name.rpartition(".")

    kls = getattr(import_module(module), name, None)
    known = [f.name for f in fields(kls)] if is_dataclass(kls) else []

    unknown = ", ".join(f"`{where}.{key}`" if where else f"`{key}`" for key in keys)
    close = [match for key in keys for match in get_close_matches(key, known, n=1)]
    closest = f", of which `{close[0]}` is the closest" if close else ""

    return (
        f"The configuration has no {unknown}; {f'`{where}`' if where else 'it'} has "
        f"{', '.join(f'`{k}`' for k in known)}{closest}."
    )


@final
class _OneSentence(Filter):
    @override
    def filter(self, record: LogRecord) -> bool:
        ex = record.exc_info[1] if record.exc_info else None

        if isinstance(ex, RecipeConfigParseError):
            record.msg, record.args = explain_config_error(ex), ()
            record.exc_info = record.exc_text = None
        elif ex is not None and is_lost_contact(ex):
            stop_request.ignore()

            record.msg, record.args = explain_lost_contact(ex), ()
            record.exc_info = record.exc_text = None

        return True
