"""The room that talks to people: command line, interactive shell, output formats."""
