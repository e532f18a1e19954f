"""A whole HTML file that asks nothing of the world."""

from __future__ import annotations

import base64
import hashlib


def document(title: str, css: str, body: str, script: str = "") -> str:
    """One page with its style and its script inside; its policy lets nothing else in, and no other script run.

    Args:
        title, body: HTML; what comes from data is escaped already.
        css, script: our own; neither holds the end of its element.
    """
    assert "</" not in css, "the style ends its element"
    assert "</" not in script, "the script ends its element"
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    run = ""
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
        run = f"<script>{script}</script>\n"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
{body}
{run}</body>
</html>
"""
