"""Serving: releases, the endpoint that predicts by them, where its replicas run, and the log of predictions."""
