"""The same sessions spoken by MMTP and by real libraries of other protocols, counted byte by byte, without sockets."""
