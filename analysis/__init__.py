"""From records to one tidy table, a summary table and the trade-off figures; never imports torch."""
