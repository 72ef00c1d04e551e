"""The report as a page: charts, pictures and tables that need no other file, and no network."""
