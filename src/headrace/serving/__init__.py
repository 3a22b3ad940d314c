"""Serving: releases, the predict endpoint, its replicas, and the log of predictions."""
