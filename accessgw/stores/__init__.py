"""Streams, cursors, claims and events that outlive the process."""
