"""How deployments do in this server, as plain values for their page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sommelier.runtime.server.service import ModelService


def live(service: ModelService) -> list[dict[str, Any]]:
    """What is served and how it does, then what is left out and why."""
    found = []
    for running in service.deployments:
        state = running.state()
        reasons = [f"{m.name}: {m.reason}" for m in state.models if m.reason]
        found.append(
            {
                "name": state.name,
                "state": state.status,
                "models": ", ".join(model.name for model in state.models),
                "answered": state.answered,
                "refused": sum(state.rejected.values()),
                "failed": state.failed,
                "waiting": state.waiting,
                "note": "; ".join([*state.warnings, *reasons]) or None,
            }
        )
    return found + [
        {"name": out.name, "state": "not served", "note": out.reason} for out in service.left_out
    ]
