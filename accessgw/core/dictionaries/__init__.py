"""Dictionaries of bodies: sampled from live traffic, trained in a process of their own, and the life they lead."""
