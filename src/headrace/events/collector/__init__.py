"""The collector: the HTTP endpoint that receives events."""
