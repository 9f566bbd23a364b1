"""Contexts, certificates and who may connect."""
