"""The collector: the HTTP door through which events enter."""
