"""Places of sources as they may be shown: an address without what may be secret in it."""

from __future__ import annotations


def told(value: object) -> str:
    """A place, or the value of an option, as text; addresses without user, password and query.

    >>> told("https://me:secret@host/models"), told("./zoo/net?.onnx")
    ('https://host/models', './zoo/net?.onnx')
    """
    from sommelier.connectors.web import shown, without_secrets  # needed only for addresses

    text = str(value)
    if "://" not in text:
        return text
    return shown(text) if isinstance(value, str) else without_secrets(text)
