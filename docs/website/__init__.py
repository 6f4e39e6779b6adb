"""What makes the documentation site out of the pages in docs/, the notebooks and docstrings."""
