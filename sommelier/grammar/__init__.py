"""Reads questions: text to nodes and back, with errors that say what would have worked."""
