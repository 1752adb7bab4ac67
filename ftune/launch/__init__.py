"""From a recipe to processes: the supervisor of the processes of one node, and scripts for clusters that start it."""
