"""The lake: Iceberg tables. The only room that imports PyIceberg."""
