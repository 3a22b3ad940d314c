"""The trainers, one file each."""
