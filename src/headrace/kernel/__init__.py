"""What every room speaks: run, position, errors, time, fingerprint, ids."""
