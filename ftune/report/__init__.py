"""What a run tells: its events, its curves, its model card, and the machine it ran on."""
