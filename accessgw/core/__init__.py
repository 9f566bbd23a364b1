"""The gateway itself: sessions, calls, streams, fan-out, filters, timers."""
