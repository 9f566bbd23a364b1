"""Wire formats without I/O: bytes and the time go in, events and bytes come out."""
