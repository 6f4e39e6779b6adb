"""Serving: what a query selected answers inputs, without database, parser or torch on the way."""
