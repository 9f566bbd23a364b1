"""MQTT 3.1, 3.1.1 and 5 without I/O: codec, connection of both roles, topics, retained and shared messages."""
