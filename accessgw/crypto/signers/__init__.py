"""Who makes the signatures of hand-shakes, beside the threads of the hand-shakes themselves."""
