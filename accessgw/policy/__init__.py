"""Decisions without I/O: routing, balancing, budgets, limits, drain. The time is an argument."""
