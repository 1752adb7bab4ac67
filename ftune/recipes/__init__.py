"""One file a command: the root section of its YAML and a short `run`. Loading and explaining recipes is here too."""
