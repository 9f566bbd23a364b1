"""Plain typed data that the rooms hand to each other; no behaviour, no I/O."""
