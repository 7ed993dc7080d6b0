"""How it is computed: one schedule rule a file, listed by `athanor.targets`."""
