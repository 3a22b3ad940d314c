"""Other systems' forms, one file a target."""
