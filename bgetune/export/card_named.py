"""A card that speaks of the repository it is pushed to."""

from __future__ import annotations

from collections.abc import Mapping

PATH_OR_ID = "PATH_OR_ID"
"""In the snippets of a card, where the folder's path or the repository's name belongs."""
REPOSITORY = "ORG/NAME"
"""In the cards of forms, where the repository's name belongs."""


def named_for(card: str, repository: str, branches: Mapping[str, str] | None = None) -> str:
    """The card with the repository in every snippet.

    Args:
        branches: folder of a form -> its branch, where that is not the folder's own name.

    >>> named_for('M("PATH_OR_ID", revision="sparse")', "me/x", {"export-sparse": "v2-sparse"})
    'M("me/x", revision="v2-sparse")'
    """
    card = card.replace(PATH_OR_ID, repository).replace(REPOSITORY, repository)
    for folder, branch in (branches or {}).items():
        card = card.replace(f'revision="{folder.removeprefix("export-")}"', f'revision="{branch}"')
    return card
