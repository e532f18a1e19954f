"""Sections and what opens in them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A part of the page with its own entry in the navigation; `heading` and `body` are HTML."""

    name: str
    heading: str
    body: str

    def to_html(self) -> str:
        return (
            f'<section id="{self.name}" aria-labelledby="{self.name}-h">'
            f'<h2 id="{self.name}-h">{self.heading}</h2>\n{self.body}\n</section>'
        )


def fold(heading: str, body: str, open_at_first: bool = False, level: int = 3) -> str:
    """A heading that opens what is below it. Both are HTML."""
    state = " open" if open_at_first else ""
    return (
        f'<details class="fold"{state}><summary><h{level}>{heading}</h{level}></summary>\n'
        f'<div class="inside">{body}</div></details>'
    )
