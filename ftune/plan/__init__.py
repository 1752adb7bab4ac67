"""What a run will need, by arithmetic alone: memory by part, time, money. No torch, no configuration of recipes."""
