"""The explorer: pages about a database that `sommelier serve` answers, made in another process."""
