"""Objects as segments: where masks come from, how they are filtered and applied, which of them is the foreground."""
