"""Tables: each is a function of its inputs, and a build makes only the days whose input has changed."""
