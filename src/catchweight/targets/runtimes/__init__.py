"""The runtimes that a network can be measured on; each is a kind of target."""
