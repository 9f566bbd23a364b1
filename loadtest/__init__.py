"""Load, benchmarks and peers. Imports the client and the protocols, never the gateway's rooms."""
