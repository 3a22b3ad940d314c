"""Churn: which customers of a telecom will leave?"""
