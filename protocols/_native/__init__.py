"""Libraries in C behind the codecs of other packages, which choose them once at import; never imported directly."""
