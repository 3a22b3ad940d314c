"""From raw events to verdicts: good rows of the topic's table, and refused rows with their reasons."""
