"""A database of neural-network models that you can question.

>>> import sommelier as sm
>>> with sm.connect(":memory:") as db:
...     len(db.query("SELECT MODELS"))
0

Importing the package loads no neural-network runtime; `connect` is the way in.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sommelier.connection import Connection, Model, Relation, connect
    from sommelier.errors import SommelierError

__version__ = "0.1.0"
__all__ = ["Connection", "Model", "Relation", "SommelierError", "connect"]


def __getattr__(name: str) -> Any:
    """Loads the public names on first use, so that `import sommelier` costs milliseconds."""
    if name == "SommelierError":
        from sommelier.errors import SommelierError

        return SommelierError
    if name in __all__:
        return getattr(import_module("sommelier.connection"), name)
    raise AttributeError(f"module 'sommelier' has no attribute '{name}'")


def load_ipython_extension(ipython: Any) -> None:
    """`%load_ext sommelier` in Jupyter: see sommelier.shell.notebook."""
    import_module("sommelier.shell.notebook").load_ipython_extension(ipython)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
