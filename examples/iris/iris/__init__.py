"""Iris: which of three species is a flower with these sepals and petals?"""
