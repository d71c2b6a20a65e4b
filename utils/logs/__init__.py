"""What a run writes while it trains: its log files, the rows of layers.csv, the time left."""
