"""The broker of the gateway: MQTT sessions, their queues, wills, rules and operations."""
