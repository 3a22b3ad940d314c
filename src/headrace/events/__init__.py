"""Events: what they must be, how they enter and are judged, where they go, and what is refused."""
