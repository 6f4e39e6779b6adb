"""Connectors find models somewhere and bring them here as files and declared facts, unexecuted."""
