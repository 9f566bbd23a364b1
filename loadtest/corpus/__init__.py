"""Made-up sessions of a mobile app for measurements of bytes: the same seed gives the same bytes.

`sessions` is the entry; `controls` says within which bounds what it makes counts as mobile traffic.
"""
