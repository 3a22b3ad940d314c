"""The commands on a whole project: init, status, doctor, clean; and maintenance."""
