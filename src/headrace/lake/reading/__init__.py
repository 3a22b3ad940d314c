"""Reading: the embedded catalog without PyIceberg, and any other catalog by PyIceberg, behind one port."""
