"""TLS engines without I/O."""
