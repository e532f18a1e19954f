"""From a passage to the prompt that is sent."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from bgetune.config_data import FewShot, SynthesizeConfig
from bgetune.errors import UserError

MOST_CHARACTERS = 6000
"""Of a passage, in a prompt: about 1,500 tokens of English, room enough in any model's context."""
_PLACES = ("passage", "count", "examples")


def check_prompt(settings: SynthesizeConfig) -> None:
    """Raises UserError, naming the option, for a prompt that would not show what it must."""
    if "{passage}" not in settings.prompt:
        raise UserError(
            "synthesize.prompt: {passage} is not in it, so the model would see no passage; put {passage} where the "
            "passage belongs"
        )
    if settings.examples and "{examples}" not in settings.prompt:
        raise UserError(
            "synthesize.prompt: {examples} is not in it, so synthesize.examples would never be shown; put {examples} "
            "where they belong or remove them"
        )


def prompt_for(passage: str, settings: SynthesizeConfig) -> str:
    """The prompt with its places filled, in one pass: braces in passages, and all others in the prompt, stay.

    >>> prompt_for("a {count} {b}", SynthesizeConfig(prompt='{count} for {passage} as {"q": []}'))
    '2 for a {count} {b} as {"q": []}'
    """
    values = {
        "passage": shortened(passage),
        "count": str(settings.queries_per_passage),
        "examples": shown(settings.examples),
    }
    return re.sub("{(" + "|".join(_PLACES) + ")}", lambda place: values[place[1]], settings.prompt)


def shortened(text: str, most: int = MOST_CHARACTERS) -> str:
    """The text's first `most` characters, less the word that the cut would tear, where words have spaces between.

    >>> shortened("one two three", 9), shortened("one two three", 7), shortened("onetwothree", 6)
    ('one two', 'one two', 'onetwo')
    """
    text = text.strip()
    if len(text) <= most:
        return text
    cut = text[:most]
    if not text[most].isspace():
        cut = re.sub(r"\s\S*$", "", cut)
    return cut.rstrip()


def shown(examples: Sequence[FewShot]) -> str:
    """The examples as text, the queries of one passage together, in the form that is asked for; empty without any.

    >>> print(shown([FewShot("Tea is hot.", "how hot is tea"), FewShot("Tea is hot.", "is tea hot")]).strip())
    For example, for this passage:
    Tea is hot.
    a good answer is:
    ["how hot is tea", "is tea hot"]
    """
    queries: dict[str, list[str]] = {}
    for example in examples:
        queries.setdefault(example.passage, []).append(example.query)
    return "".join(
        f"\n\nFor example, for this passage:\n{passage}\na good answer is:\n{json.dumps(wanted, ensure_ascii=False)}"
        for passage, wanted in queries.items()
    )
