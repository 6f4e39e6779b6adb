"""HTML by construction: what is no Markup is escaped, so no name of a stranger becomes a tag."""

from __future__ import annotations

from html import escape

from sommelier.shell.terminal import visible

_VOID = frozenset({"br", "hr", "input", "link", "meta"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Content = str | None
Attribute = str | int | float | bool | None


def tag(name: str, /, *content: Content, **attributes: Attribute) -> Markup:
    """An element. Names of attributes: `class_`, `aria_label`; None and False leave one out.

    >>> tag("a", "<b>", tag("i", "x"), href="/?q=\\"", class_="y", hidden=True, id=None)
    '<a href="/?q=&quot;" class="y" hidden>&lt;b&gt;<i>x</i></a>'
    """
    said = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{name}{said}>")
    return Markup(f"<{name}{said}>{joined(*content)}</{name}>")


def joined(*content: Content) -> Markup:
    """Pieces one after the other; None is nothing."""
    return Markup("".join(map(_piece, content)))


def _piece(content: Content) -> str:
    if content is None:
        return ""
    return content if isinstance(content, Markup) else text(content)


def text(content: str) -> Markup:
    """Escaped; characters that control or turn the direction of writing are spelled out."""
    lines = (visible(line.replace("\t", "    ")) for line in content.split("\n"))
    return Markup(escape("\n".join(lines)))


def _attribute(key: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'
