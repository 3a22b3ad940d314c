"""Serving: releases, the replica that answers, and the log of its predictions."""
