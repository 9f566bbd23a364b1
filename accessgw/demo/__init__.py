"""A small payment and feed service, and the scripted tour against it."""
