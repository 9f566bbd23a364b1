"""MMTP, the mobile protocol: frames, hand-shake, calls, pushes; specification in docs/spec/mmtp.md."""
