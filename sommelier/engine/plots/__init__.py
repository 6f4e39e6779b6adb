"""Pictures of what is known: functions that turn plain data into a `Plot`, one module a kind.

Only `picture` says what is common to all. matplotlib is imported when something is drawn; pyplot,
whose state is global, never.
"""
