"""Clients of business services."""
