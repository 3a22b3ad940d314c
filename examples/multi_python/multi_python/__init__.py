"""This project declares nothing: it serves models that others trained."""
