"""The page of every statement and clause: what `.help` says, made from the grammar file."""

from __future__ import annotations

from textwrap import dedent

from sommelier.grammar.reference import help_text, topics

_HEAD = """# Every statement and clause

What `.help` says in [the shell](shell.md), made from the grammar itself; what the statements mean
is told in [the language](language.md). `[...]` may be left out, `(a | b)` is one of the two, `...`
says that more may follow, capitals are words of the language.
"""


def syntax_page() -> str:
    """Markdown with a section for each topic: what it is for, its syntax, its examples."""
    parts = [_HEAD]
    for topic in topics():
        syntax = dedent(help_text(topic.name).split("\n\n")[1])
        examples = "\n".join(topic.examples)
        parts += [
            f"## {topic.name.capitalize()}",
            topic.sentence,
            f"```text\n{syntax}\n```",
            f"```sql\n{examples}\n```",
        ]
    return "\n\n".join(parts) + "\n"
