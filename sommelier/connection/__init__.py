"""The one object users hold: it turns statements into answers, and knows every room."""

from __future__ import annotations

from sommelier.connection.connecting import connect
from sommelier.connection.connection import Connection
from sommelier.connection.model import Model
from sommelier.connection.relation import Relation

__all__ = ["Connection", "Model", "Relation", "connect"]
