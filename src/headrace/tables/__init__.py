"""Tables: the build of one table, its partitions, its audit."""
