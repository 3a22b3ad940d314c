"""What every room uses: run, position, errors, time, ids, files, locks, digests, secrets."""
