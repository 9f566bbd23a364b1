"""Listeners and connections on Twisted."""
