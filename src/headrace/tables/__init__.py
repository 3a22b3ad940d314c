"""Tables: each is a function of what it reads, and a build makes only the days whose input has changed."""
