"""Which parameters train: one file a method, each a section whose `wrap` turns a model into a trainable one."""
