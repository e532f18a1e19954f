"""A card that speaks of the repository it is pushed to."""

from __future__ import annotations

from collections.abc import Mapping

from bgetune.config_export import branch_of

PATH_OR_ID = "PATH_OR_ID"
"""In the snippets of a card, where the folder's path or the repository's name belongs."""
PLACE = f"`{PATH_OR_ID}` stands for the path of this folder."
"""In the card of the main folder, and in none that is pushed."""


def named_for(card: str, repository: str, branches: Mapping[str, str], revision: str = "main") -> str:
    """The main folder's card with the repository in every snippet.

    Args:
        revision: the branch that the card goes to.
        branches: folder of a form, as in `export-sparse`, -> its branch.

    >>> named_for('M("PATH_OR_ID"); S("PATH_OR_ID-sparse")', "me/x", {"export-sparse": "v2-sparse"})
    'M("me/x"); S("me/x", revision="v2-sparse")'
    """
    for folder, branch in branches.items():
        card = card.replace(f'"{PATH_OR_ID}-{branch_of(folder)}"', f'"{repository}", revision="{branch}"')
    fetched = f"`hf download {repository} --revision {revision} --local-dir DIR`"
    other = f' This is the branch `{revision}`: pass `revision="{revision}"`, or fetch it by {fetched} and name DIR.'
    return card.replace(f" {PLACE}", "" if revision == "main" else other).replace(PATH_OR_ID, repository)


def form_named_for(card: str, repository: str, branch: str) -> str:
    """A form's card with the repository and its branch in the snippet.

    >>> form_named_for('S("PATH", trust_remote_code=True)', "me/x", "sparse")
    'S("me/x", revision="sparse", trust_remote_code=True)'
    """
    return card.replace('"PATH"', f'"{repository}", revision="{branch}"')
