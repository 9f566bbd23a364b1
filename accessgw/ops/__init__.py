"""What an operator sees and does: control API, metrics, access log, accessgwctl."""
