"""What every layer stands on: sections, YAML, errors, files. Imports nothing heavy and no other part of ftune."""
