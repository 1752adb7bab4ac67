"""AdapterFusion as a tuner of peft."""
