"""Sales: how much does each department of each store sell in the week that begins?"""
