"""What an encoder of our own is trained to do: each objective one file, plain torch."""
