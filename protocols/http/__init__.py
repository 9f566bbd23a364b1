"""HTTP without I/O: the only place where HTTP is parsed."""
