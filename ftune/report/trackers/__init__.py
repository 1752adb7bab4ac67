"""Services that show the curves of runs: one file a service, each fed from the run's events."""
