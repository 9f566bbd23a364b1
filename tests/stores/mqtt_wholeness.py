"""What may never be found in a durable MqttStore's file, whatever was done to it: rows that belong to nothing."""

from __future__ import annotations

import sqlite3
from pathlib import Path

# In SQL a NULL is in no list, and not outside of one either, unless the list is empty: then "NOT IN" is true of
# NULL, too. NOT EXISTS has no such case, and a row whose message the client has got (message is NULL) is asked apart.
STRAYS = {
    "a body that no queue has": """mqtt_message AS body
        WHERE NOT EXISTS (SELECT 1 FROM mqtt_queue WHERE message = body.number)""",
    "a row whose body is not there": """mqtt_queue AS row
        WHERE message IS NOT NULL AND NOT EXISTS (SELECT 1 FROM mqtt_message WHERE number = row.message)""",
    "a row without a body that was never sent": "mqtt_queue WHERE message IS NULL AND packet_id = 0",
    "a body of several rows that says it has one": """mqtt_queue AS row WHERE shared = 0 AND EXISTS
        (SELECT 1 FROM mqtt_queue WHERE message = row.message AND (session, number) <> (row.session, row.number))""",
    **{
        f"a row of mqtt_{table} without its session": f"""mqtt_{table} AS row
            WHERE NOT EXISTS (SELECT 1 FROM mqtt_session WHERE number = row.session)"""
        for table in ("queue", "subscription", "received")
    },
}
"""What it is, and where to look for it."""


def strays(path: Path) -> dict[str, int]:
    """How many of each kind the file has; empty when it is whole."""
    look = sqlite3.connect(path)
    try:
        counts = {what: look.execute(f"SELECT count(*) FROM {where}").fetchone()[0] for what, where in STRAYS.items()}
    finally:
        look.close()
    return {what: count for what, count in counts.items() if count}
