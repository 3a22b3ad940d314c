"""The console: server-rendered pages that show a project as it is. Thin: it asks, and prints."""
