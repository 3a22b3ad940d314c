"""The base that every package uses: run, position, errors, time, ids, files, locks, digests, secrets."""
